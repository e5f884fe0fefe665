//! PostgreSQL, by prepared statements and values in binary.
//!
//! Messages come from the crate postgres-protocol, the layer on which the crates postgres and
//! tokio-postgres stand: these bring an executor and a task for each connection, which on a small
//! machine takes processors from the server that is measured. Each trip ends with one Sync, so
//! one ReadyForQuery answers it.

use super::{Data, Dialect, Piece, Sample, Server, Values, Watch};
use crate::address::{Address, Stream};
use crate::operation::{BALANCE, Kind, Operation, Outcome, Refusal, Step, Transfer};
use anyhow::{Context, Result, anyhow};
use bytes::{BufMut, BytesMut};
use fallible_iterator::FallibleIterator;
use postgres_protocol::IsNull;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::backend::{ErrorResponseBody, Header, Message};
use postgres_protocol::message::frontend;
use std::io::{Read, Write};
use std::time::Duration;

/// The type of numbers, `bigint`.
const INT8: u32 = 20;
/// The type of values, `text`.
const TEXT: u32 = 25;
/// SQLSTATEs after which the same transaction can be tried again: serialization failure, deadlock.
const CONFLICTS: [&[u8]; 2] = [b"40001", b"40P01"];
/// Bytes read at a time while a session is set up.
const CHUNK_BYTES: usize = 16 * 1024;
/// Rows made by one statement.
const LOAD_ROWS: u64 = 100_000;

/// A statement that each session prepares: its name, its text (with the number of keys of a range
/// in place of `{limit}`), the types of its parameters.
type Statement = (&'static str, &'static str, &'static [u32]);

/// For keys with values.
const OF_VALUES: [Statement; 3] = [
    ("get", "SELECT v FROM rd_bench_values WHERE k = $1", &[INT8]),
    (
        "set",
        "INSERT INTO rd_bench_values VALUES ($1, $2) ON CONFLICT (k) DO UPDATE SET v = excluded.v",
        &[INT8, TEXT],
    ),
    (
        "range",
        // A parameter in the place of the limit would leave the planner to guess.
        "SELECT k, v FROM rd_bench_values WHERE k >= $1 ORDER BY k LIMIT {limit}",
        &[INT8],
    ),
];

/// For accounts.
const OF_ACCOUNTS: [Statement; 6] = [
    ("begin", "BEGIN", &[]),
    ("commit", "COMMIT", &[]),
    ("rollback", "ROLLBACK", &[]),
    (
        "read",
        "SELECT balance FROM rd_bench_accounts WHERE k = $1",
        &[INT8],
    ),
    (
        "write",
        "UPDATE rd_bench_accounts SET balance = $2 WHERE k = $1",
        &[INT8, INT8],
    ),
    (
        "add",
        "UPDATE rd_bench_accounts SET balance = balance + $2 WHERE k = $1",
        &[INT8, INT8],
    ),
];

/// Who logs in, and to what.
#[derive(Clone, Debug)]
pub struct Login {
    /// The role.
    pub user: String,
    /// The database.
    pub database: String,
    /// The password, if one is asked for.
    pub password: Option<String>,
}

/// A PostgreSQL.
#[derive(Debug)]
pub struct PostgresServer {
    address: Address,
    login: Login,
    data: Data,
    limit: u32,
    isolation: &'static str,
    timeout: Duration,
}

impl PostgresServer {
    /// A server at an address; nothing is done yet. Sessions prepare what `data` asks for; a range
    /// has `limit` keys.
    pub fn new(
        address: Address,
        login: Login,
        data: Data,
        limit: u32,
        is_serializable: bool,
        timeout: Duration,
    ) -> PostgresServer {
        PostgresServer {
            address,
            login,
            data,
            limit,
            isolation: if is_serializable {
                "serializable"
            } else {
                "repeatable read"
            },
            timeout,
        }
    }

    fn session(&self, timeout: Duration) -> Result<Session> {
        let stream = self.address.connect(timeout)?;
        Session::open(stream, &self.login)
            .with_context(|| format!("logging in at {}", self.address))
    }
}

/// How long a statement that makes data may take.
const LOAD_TIMEOUT: Duration = Duration::from_secs(3600);

impl Server for PostgresServer {
    fn version(&self) -> Result<String> {
        let version = self.session(self.timeout)?.value("SHOW server_version")?;
        let number = version.split(' ').next().unwrap_or_default();
        Ok(format!("PostgreSQL {number}"))
    }

    fn load(&self, data: Data, count: u64, values: &Values, advance: &dyn Fn(u64)) -> Result<()> {
        let mut session = self.session(LOAD_TIMEOUT)?;
        let (table, column, value) = match data {
            Data::Values => {
                let bytes = values.bytes();
                // Text that compression does not make small, made by the server itself.
                let hashes = format!(
                    "(SELECT string_agg(md5(n || ':' || i), '') FROM generate_series(0, {}) i)",
                    bytes / 32
                );
                (
                    "rd_bench_values",
                    "v text",
                    format!("left({hashes}, {bytes})"),
                )
            }
            Data::Accounts => ("rd_bench_accounts", "balance bigint", BALANCE.to_string()),
        };
        session.query(&format!("DROP TABLE IF EXISTS {table}"))?;
        session.query(&format!(
            "CREATE TABLE {table} (k bigint PRIMARY KEY, {column} NOT NULL)"
        ))?;
        for from in (0..count).step_by(LOAD_ROWS as usize) {
            let until = count.min(from + LOAD_ROWS);
            session.query(&format!(
                "INSERT INTO {table} SELECT n, {value} FROM generate_series({from}, {}) n",
                until - 1
            ))?;
            advance(until - from);
        }
        session.query(&format!("VACUUM ANALYZE {table}"))?;
        session.query("CHECKPOINT")?;
        Ok(())
    }

    fn total(&self, count: u64) -> Result<i64> {
        let mut session = self.session(LOAD_TIMEOUT)?;
        let rows = session.query(&format!(
            "SELECT count(*), sum(balance)::bigint FROM rd_bench_accounts WHERE k < {count}"
        ))?;
        let number = |column: usize| -> Option<i64> {
            let cell = rows.first()?.get(column)?.as_ref()?;
            cell.parse().ok()
        };
        let found = number(0).unwrap_or_default();
        if u64::try_from(found) != Ok(count) {
            return Err(rd_tools::cli::with_hint(
                format!("there are {found} accounts of {count}"),
                "Make the accounts with --load.",
            ));
        }
        Ok(number(1).unwrap_or_default())
    }

    fn open(&self, is_asynchronous: bool) -> Result<Stream> {
        let mut session = self.session(self.timeout)?;
        let isolation = self.isolation;
        session.query(&format!(
            "SET default_transaction_isolation = '{isolation}'"
        ))?;
        if is_asynchronous {
            session.query("SET synchronous_commit = off")?;
        }
        let statements: &[Statement] = match self.data {
            Data::Values => &OF_VALUES,
            Data::Accounts => &OF_ACCOUNTS,
        };
        for (name, text, types) in statements {
            let text = text.replace("{limit}", &self.limit.to_string());
            session.prepare(name, &text, types).map_err(|error| {
                let error = error.context(format!("could not prepare {text:?}"));
                rd_tools::cli::with_hint(format!("{error:#}"), "Make the tables with --load.")
            })?;
        }
        Ok(session.stream)
    }

    fn dialect(&self) -> Box<dyn Dialect> {
        Box::new(PostgresDialect {
            scratch: BytesMut::new(),
        })
    }

    fn watch(&self) -> Result<Box<dyn Watch>> {
        let mut session = self.session(self.timeout)?;
        let version = session.value("SHOW server_version_num")?;
        let counts = match version.parse::<u32>() {
            Ok(version) if version >= 170_000 => {
                "(SELECT num_timed + num_requested FROM pg_stat_checkpointer)"
            }
            _ => "(SELECT checkpoints_timed + checkpoints_req FROM pg_stat_bgwriter)",
        };
        Ok(Box::new(PostgresWatch {
            session,
            query: format!(
                "SELECT pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint, \
                 pg_wal_lsn_diff(pg_current_wal_insert_lsn(), redo_lsn)::bigint, {counts}, \
                 pg_wal_lsn_diff(checkpoint_lsn, '0/0')::bigint FROM pg_control_checkpoint()"
            ),
            seen: None,
        }))
    }
}

/// A session on which statistics are asked.
struct PostgresWatch {
    session: Session,
    query: String,
    /// Checkpoints begun, and where the last complete one's record is.
    seen: Option<(u64, u64)>,
}

impl Watch for PostgresWatch {
    fn sample(&mut self) -> Result<Sample> {
        let rows = self.session.query(&self.query)?;
        let number = |column: usize| -> Option<u64> {
            let cell = rows.first()?.get(column)?.as_ref()?;
            cell.parse().ok()
        };
        let (started, last) = (number(2).unwrap_or_default(), number(3).unwrap_or_default());
        let (before, done) = *self.seen.get_or_insert((started, last));
        // The counter rises when one begins, the record is there when it ends.
        let is_under_way = started > before && last == done;
        if last != done {
            self.seen = Some((started, last));
        }
        Ok(Sample {
            wal_bytes: number(0),
            redo_bytes: number(1),
            dirty_pages: None,
            recovery_estimate_ms: None,
            checkpoints_started: Some(started),
            is_checkpoint_under_way: is_under_way,
        })
    }
}

/// A session that blocks.
struct Session {
    stream: Stream,
    input: BytesMut,
    out: BytesMut,
}

impl Session {
    /// Logs in.
    fn open(stream: Stream, login: &Login) -> Result<Session> {
        let mut session = Session {
            stream,
            input: BytesMut::new(),
            out: BytesMut::new(),
        };
        let parameters = [
            ("user", login.user.as_str()),
            ("database", login.database.as_str()),
            ("client_encoding", "UTF8"),
            ("application_name", "rd_bench"),
        ];
        frontend::startup_message(parameters, &mut session.out)?;
        let password = || {
            let password = login.password.as_ref().map(String::as_bytes);
            password.ok_or_else(|| {
                rd_tools::cli::with_hint("the server asks for a password", "Set PGPASSWORD.")
            })
        };
        loop {
            match session.receive()? {
                Message::AuthenticationOk => break,
                Message::AuthenticationCleartextPassword => {
                    frontend::password_message(password()?, &mut session.out)?;
                }
                Message::AuthenticationMd5Password(body) => {
                    let hash = md5_hash(login.user.as_bytes(), password()?, body.salt());
                    frontend::password_message(hash.as_bytes(), &mut session.out)?;
                }
                Message::AuthenticationSasl(_) => session.scram(password()?)?,
                _ => {
                    return Err(anyhow!(
                        "the server asks for a way to log in that is not known"
                    ));
                }
            }
        }
        session.rows()?;
        Ok(session)
    }

    /// Proves the password without sending it (SCRAM-SHA-256).
    fn scram(&mut self, password: &[u8]) -> Result<()> {
        let binding = sasl::ChannelBinding::unsupported();
        let mut scram = sasl::ScramSha256::new(password, binding);
        frontend::sasl_initial_response(sasl::SCRAM_SHA_256, scram.message(), &mut self.out)?;
        let Message::AuthenticationSaslContinue(body) = self.receive()? else {
            return Err(anyhow!("the server broke the log-in off"));
        };
        scram.update(body.data())?;
        frontend::sasl_response(scram.message(), &mut self.out)?;
        let Message::AuthenticationSaslFinal(body) = self.receive()? else {
            return Err(anyhow!("the server broke the log-in off"));
        };
        Ok(scram.finish(body.data())?)
    }

    /// Sends what is queued, and takes the next message; an error of the server is one.
    fn receive(&mut self) -> Result<Message> {
        if !self.out.is_empty() {
            self.stream.write_all(&self.out)?;
            self.out.clear();
        }
        loop {
            match Message::parse(&mut self.input)? {
                Some(Message::ErrorResponse(body)) => return Err(anyhow!(said(&body))),
                Some(Message::NoticeResponse(_)) => {}
                Some(message) => return Ok(message),
                None => {
                    let mut chunk = [0; CHUNK_BYTES];
                    let count = self.stream.read(&mut chunk).context("no answer")?;
                    if count == 0 {
                        return Err(anyhow!("the server closed the connection"));
                    }
                    self.input.extend_from_slice(&chunk[..count]);
                }
            }
        }
    }

    /// The rows that come until the server is ready again.
    fn rows(&mut self) -> Result<Vec<Vec<Option<String>>>> {
        let mut rows = Vec::new();
        loop {
            match self.receive()? {
                Message::ReadyForQuery(_) => return Ok(rows),
                Message::DataRow(body) => {
                    let cell = |range: Option<std::ops::Range<usize>>| {
                        let bytes = body.buffer().get(range?)?;
                        Some(String::from_utf8_lossy(bytes).into_owned())
                    };
                    rows.push(body.ranges().map(|range| Ok(cell(range))).collect()?);
                }
                _ => {}
            }
        }
    }

    /// Runs a statement.
    fn query(&mut self, text: &str) -> Result<Vec<Vec<Option<String>>>> {
        frontend::query(text, &mut self.out)?;
        self.rows()
    }

    /// The one value that a statement returns.
    fn value(&mut self, text: &str) -> Result<String> {
        let rows = self.query(text)?;
        let cell = rows
            .into_iter()
            .next()
            .and_then(|row| row.into_iter().next());
        cell.flatten()
            .ok_or_else(|| anyhow!("{text:?} returned nothing"))
    }

    fn prepare(&mut self, name: &str, text: &str, types: &[u32]) -> Result<()> {
        frontend::parse(name, text, types.iter().copied(), &mut self.out)?;
        frontend::sync(&mut self.out);
        self.rows()?;
        Ok(())
    }
}

/// What an error response says: severity, SQLSTATE, text.
fn said(body: &ErrorResponseBody) -> String {
    let field = |wanted: u8| {
        let mut fields = body.fields();
        while let Ok(Some(field)) = fields.next() {
            if field.type_() == wanted {
                return String::from_utf8_lossy(field.value_bytes()).into_owned();
            }
        }
        String::new()
    };
    format!("{} {}: {}", field(b'S'), field(b'C'), field(b'M'))
}

/// Trips as prepared statements.
struct PostgresDialect {
    scratch: BytesMut,
}

/// A parameter of a statement.
#[derive(Clone, Copy)]
enum Parameter<'a> {
    Number(i64),
    Text(&'a [u8]),
}

impl PostgresDialect {
    fn run(&mut self, statement: &str, parameters: &[Parameter<'_>]) {
        let put = |parameter: &Parameter<'_>, out: &mut BytesMut| {
            match parameter {
                Parameter::Number(number) => out.put_i64(*number),
                Parameter::Text(text) => out.extend_from_slice(text),
            }
            Ok(IsNull::No)
        };
        let binary = [1_i16];
        frontend::bind(
            "",
            statement,
            binary,
            parameters,
            put,
            binary,
            &mut self.scratch,
        )
        .map_err(|_| ())
        .expect("names have no zero byte, and parameters are few and short");
        frontend::execute("", 0, &mut self.scratch).expect("the name has no zero byte");
    }

    fn transfer(&mut self, transfer: &Transfer, step: Step) {
        use Parameter::Number;
        let (from, to) = (transfer.from.cast_signed(), transfer.to.cast_signed());
        let [first, second] = transfer.result();
        match step {
            Step::Begin => self.run("begin", &[]),
            Step::ReadFirst => self.run("read", &[Number(from)]),
            Step::ReadSecond => self.run("read", &[Number(to)]),
            Step::WriteFirst => self.run("write", &[Number(from), Number(first)]),
            Step::WriteSecond => self.run("write", &[Number(to), Number(second)]),
            Step::Only | Step::Commit => self.run("commit", &[]),
            Step::Rollback => self.run("rollback", &[]),
            Step::BeginAndRead => {
                for step in [Step::Begin, Step::ReadFirst, Step::ReadSecond] {
                    self.transfer(transfer, step);
                }
            }
            Step::WriteAndCommit => {
                for step in [Step::WriteFirst, Step::WriteSecond, Step::Commit] {
                    self.transfer(transfer, step);
                }
            }
        }
    }

    /// Begin to commit, sent together.
    fn exec(&mut self, transfer: &Transfer) {
        use Parameter::Number;
        let (from, to) = (transfer.from.cast_signed(), transfer.to.cast_signed());
        self.run("begin", &[]);
        self.run("read", &[Number(from)]);
        self.run("read", &[Number(to)]);
        self.run(
            "add",
            &[Number(from), Number(transfer.amount.wrapping_neg())],
        );
        self.run("add", &[Number(to), Number(transfer.amount)]);
        self.run("commit", &[]);
    }
}

impl Dialect for PostgresDialect {
    fn encode(&mut self, operation: &Operation, value: &[u8], out: &mut Vec<u8>) -> u32 {
        use Parameter::{Number, Text};
        self.scratch.clear();
        match &operation.kind {
            // A session that was ended by a conflict within a batch is left in the same way.
            _ if operation.step == Step::Rollback => self.run("rollback", &[]),
            Kind::Get(key) => self.run("get", &[Number(key.cast_signed())]),
            Kind::Set(key) => self.run("set", &[Number(key.cast_signed()), Text(value)]),
            Kind::Range(key, _) => self.run("range", &[Number(key.cast_signed())]),
            Kind::Transfer(transfer) => self.transfer(transfer, operation.step),
            Kind::Exec(transfer) => self.exec(transfer),
        }
        frontend::sync(&mut self.scratch);
        out.extend_from_slice(&self.scratch);
        1
    }

    fn decode(
        &mut self,
        input: &[u8],
        operation: &Operation,
        outcome: &mut Outcome,
    ) -> Result<Option<Piece>> {
        let mut taken = 0;
        while let Some(message) = next_message(&input[taken..])? {
            let (tag, body) = (message[0], &message[5..]);
            taken += message.len();
            match tag {
                b'Z' => {
                    outcome.is_failed_open = body == b"E";
                    return Ok(Some(Piece {
                        bytes: taken,
                        is_end: true,
                    }));
                }
                b'D' => row(body, operation.wants_numbers(), outcome)?,
                b'C' if matches!(operation.kind, Kind::Get(_)) && body == b"SELECT 0\0" => {
                    outcome.missing += 1;
                }
                b'E' => outcome.refuse(refusal(message)?),
                _ => {}
            }
        }
        let piece = Piece {
            bytes: taken,
            is_end: false,
        };
        Ok((taken > 0).then_some(piece))
    }
}

/// The first message of the input, if it is whole: a tag, four bytes of length, and its body.
fn next_message(input: &[u8]) -> Result<Option<&[u8]>> {
    let Some(header) = Header::parse(input)? else {
        return Ok(None);
    };
    Ok(input.get(..1 + usize::try_from(header.len())?))
}

/// Walks over the columns of a row.
fn row(body: &[u8], wants_numbers: bool, outcome: &mut Outcome) -> Result<()> {
    let malformed = || anyhow!("the server sent a row that ends within a column");
    let (count, mut rest) = body.split_first_chunk::<2>().ok_or_else(malformed)?;
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, behind) = rest.split_first_chunk::<4>().ok_or_else(malformed)?;
        let length = i32::from_be_bytes(*length);
        let Ok(length) = usize::try_from(length) else {
            outcome.missing += 1;
            rest = behind;
            continue;
        };
        let value = behind.get(..length).ok_or_else(malformed)?;
        rest = behind.get(length..).unwrap_or_default();
        outcome.value(|| {
            let bytes = wants_numbers.then_some(value)?.try_into().ok()?;
            Some(i64::from_be_bytes(bytes))
        });
    }
    Ok(())
}

/// What an error response means.
fn refusal(message: &[u8]) -> Result<Refusal> {
    let Some(Message::ErrorResponse(body)) = Message::parse(&mut BytesMut::from(message))? else {
        return Err(anyhow!("the server sent an error that cannot be read"));
    };
    let mut fields = body.fields();
    while let Some(field) = fields.next()? {
        if field.type_() == b'C' && CONFLICTS.contains(&field.value_bytes()) {
            return Ok(Refusal::Conflict);
        }
    }
    Ok(Refusal::Other(said(&body)))
}
