//! The configuration of a running server: immutable, made from layers, replaced on reload.
//!
//! Layers, the later over the earlier: the defaults of the table, `redoubt.conf` and what it
//! includes, the command line's `-c name=value`, and `CONFIG SET` (whose values every process
//! takes from shared memory, see [`Overrides`]). Every value knows its source.
//!
//! Invariants: every value is valid for its row; the relations between parameters hold; a value
//! that takes effect at start never changes in the life of a `Config` and its successors.

use crate::conf_file::{Assignment, FILE_NAME, Reading};
use crate::glob;
use crate::limits::{
    BACKENDS_MAX, CONFIG_NAME_SHOWN_MAX, CONFIG_PROBLEMS_MAX, WAL_BUFFERS_BYTES_MIN,
};
use crate::overrides::{Overrides, OverridesFull};
use crate::params::{Context, Param, Reach};
use crate::units::{MB, print_size};
use crate::value::{Value, ValueError};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Where a setting stands, or a problem was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// Nothing was said: the table's default, or what the server derives from others.
    Default,
    /// A line of a file, counted from 1; 0 is the file as a whole.
    File(Arc<Path>, usize),
    /// `-c name=value`.
    CommandLine,
    /// `CONFIG SET` while running.
    ConfigSet,
    /// Written down at `rd_initdb`.
    ControlFile,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Place::Default => f.write_str("default"),
            Place::File(path, 0) => write!(f, "{}", path.display()),
            Place::File(path, line) => write!(f, "{}:{line}", path.display()),
            Place::CommandLine => f.write_str("command line"),
            Place::ConfigSet => f.write_str("CONFIG SET"),
            Place::ControlFile => f.write_str("pg_control"),
        }
    }
}

/// Something wrong with a configuration: where, with what, and what would be right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Where it was found.
    pub place: Place,
    /// The parameter as it was written there, if it is about one.
    pub parameter: Option<String>,
    /// What is wrong, and what would be right.
    pub message: String,
}

impl Problem {
    pub(crate) fn new(place: Place, parameter: Option<&str>, message: String) -> Problem {
        let parameter = parameter.map(|name| name.chars().take(CONFIG_NAME_SHOWN_MAX).collect());
        Problem {
            place,
            parameter,
            message,
        }
    }
}

/// Adds a problem, if there are not too many already; then the last one says that there are more.
/// So a file of nothing but mistakes takes no more time and memory than one with a hundred.
pub(crate) fn note(problems: &mut Vec<Problem>, problem: impl FnOnce() -> Problem) {
    if problems.len() < CONFIG_PROBLEMS_MAX {
        problems.push(problem());
    } else if problems.len() == CONFIG_PROBLEMS_MAX {
        let place = problem().place;
        let message = "and more problems, which are not listed".to_owned();
        problems.push(Problem::new(place, None, message));
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.parameter {
            Some(name) => write!(f, "{}: parameter \"{name}\": {}", self.place, self.message),
            None => write!(f, "{}: {}", self.place, self.message),
        }
    }
}

/// All that was wrong with a configuration, one per line when printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            let line_break = if index == 0 { "" } else { "\n" };
            write!(f, "{line_break}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Problems {}

/// A parameter that has another value after a reload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Changed {
    /// Which one.
    pub param: Param,
    /// Its new value, as a file would write it.
    pub value: String,
}

impl fmt::Display for Changed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "parameter \"{}\" changed to \"{}\"",
            self.param, self.value
        )
    }
}

/// What a reload came to.
#[derive(Debug)]
pub struct Reloaded {
    /// The configuration from now on.
    pub config: Config,
    /// What was wrong; the parameters concerned keep their old values.
    pub problems: Vec<Problem>,
    /// What is different.
    pub changed: Vec<Changed>,
}

/// Why `CONFIG SET` was refused; nothing is changed then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetError {
    /// The argument to blame, as the client wrote it.
    pub argument: String,
    /// What is wrong with it.
    pub reason: SetErrorReason,
}

/// What is wrong with an argument of `CONFIG SET`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SetErrorReason {
    /// No such parameter; perhaps the other was meant.
    Unknown(Option<&'static str>),
    /// Named twice in one command.
    Repeated,
    /// Takes effect only at start, or was fixed by `rd_initdb`.
    Immutable,
    /// Can be changed only over the unix socket.
    NotOverTcp,
    /// The value is not one of its kind.
    Invalid(ValueError),
    /// The value does not go together with another parameter's.
    Relation(String),
    /// There is no more room for values set by command.
    Full(OverridesFull),
}

impl fmt::Display for SetErrorReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SetErrorReason::Unknown(None) => f.write_str("no such parameter"),
            SetErrorReason::Unknown(Some(nearest)) => {
                write!(f, "no such parameter; did you mean \"{nearest}\"?")
            }
            SetErrorReason::Repeated => f.write_str("duplicate parameter"),
            SetErrorReason::Immutable => f.write_str("can't set immutable config"),
            SetErrorReason::NotOverTcp => f.write_str("can be changed only over the unix socket"),
            SetErrorReason::Invalid(error) => error.fmt(f),
            SetErrorReason::Relation(message) => f.write_str(message),
            SetErrorReason::Full(error) => error.fmt(f),
        }
    }
}

impl fmt::Display for SetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "parameter \"{}\": {}", self.argument, self.reason)
    }
}

impl std::error::Error for SetError {}

/// A parameter's value in force.
#[derive(Clone, Debug, PartialEq)]
struct Setting {
    value: Value,
    source: Place,
    /// A file or the command line says otherwise, and a restart would take it up.
    pending_restart: bool,
}

/// The least relation between parameters: `times * low <= high`.
struct Relation {
    times: u64,
    low: Param,
    high: Param,
}

const RELATIONS: &[Relation] = &[
    Relation {
        times: 1,
        low: Param::MinWalSize,
        high: Param::MaxWalSize,
    },
    Relation {
        times: 2,
        low: Param::WalSegmentSize,
        high: Param::MinWalSize,
    },
    Relation {
        times: 1,
        low: Param::ProtoMaxBulkLen,
        high: Param::ClientQueryMax,
    },
];

/// One immutable set of values; its getters are made from the table of parameters.
#[derive(Clone, Debug)]
pub struct Config {
    data_dir: Option<PathBuf>,
    /// The data directory is this process's working directory.
    is_inside: bool,
    command_line: Vec<(String, String)>,
    cores: usize,
    /// The values below `CONFIG SET`.
    base: Vec<Setting>,
    /// The values in force.
    settings: Vec<Setting>,
}

impl Config {
    /// The configuration of a data directory at start. Any problem prevents it; all are reported.
    pub fn load(data_dir: &Path, command_line: &[(String, String)]) -> Result<Config, Problems> {
        Self::build(Some(data_dir), false, command_line)
    }

    /// The same for a process whose working directory is the data directory: from there it reads the
    /// files, now and later, whatever is at the path `data_dir` by then. The path is shown.
    pub fn load_inside(
        data_dir: &Path,
        command_line: &[(String, String)],
    ) -> Result<Config, Problems> {
        Self::build(Some(data_dir), true, command_line)
    }

    /// A configuration without a file: the defaults and the given values. For tests and for tools.
    pub fn from_pairs(pairs: &[(&str, &str)]) -> Result<Config, Problems> {
        let pairs: Vec<(String, String)> = pairs
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Self::build(None, false, &pairs)
    }

    fn build(
        data_dir: Option<&Path>,
        is_inside: bool,
        command_line: &[(String, String)],
    ) -> Result<Config, Problems> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let defaults = default_settings();
        let mut config = Config {
            data_dir: data_dir.map(Path::to_owned),
            is_inside,
            command_line: command_line.to_vec(),
            cores,
            base: defaults.clone(),
            settings: defaults,
        };
        config.base = config.read_layers(config.reading()).checked(cores)?;
        config.settings = config.base.clone();
        Ok(config)
    }

    /// Whether a server would start in this data directory if `text` were its `redoubt.conf`: with
    /// the command line of this one, and without. All problems are reported.
    pub fn check_file(&self, text: &str) -> Result<(), Problems> {
        let bare = Config {
            command_line: Vec::new(),
            ..self.clone()
        };
        for config in [self, &bare] {
            let mut reading = self.empty_reading();
            if let Some(data_dir) = &self.data_dir {
                reading.text(&data_dir.join(FILE_NAME), text.as_bytes(), 0);
            }
            config.read_layers(reading).checked(self.cores)?;
        }
        Ok(())
    }

    /// Reads the files and the command line again and keeps `overrides` over them. Wrong values,
    /// and those that need a restart, are reported and the old ones stay; if the text of a file
    /// cannot be made out, all stay.
    pub fn reload(&self, overrides: &Overrides) -> Reloaded {
        let Candidate {
            settings,
            mut problems,
            unreadable,
            wrong,
        } = self.read_layers(self.reading());
        let mut config = self.clone();
        if !unreadable {
            config.base = settings;
            for param in &wrong {
                config.base[*param as usize] = self.base[*param as usize].clone();
            }
            resolve_automatic(&mut config.base, self.cores);
            self.keep_what_needs_restart(&mut config.base, &mut problems);
            keep_relations(&mut config.base, &self.base, &mut problems);
        }
        self.reloaded(config, problems, overrides)
    }

    /// This configuration with the values of `CONFIG SET` as they are now in shared memory. No file
    /// is read: who edits one says when it counts. Values that do not go together with the files'
    /// are reported and left out.
    pub fn with_overrides(&self, overrides: &Overrides) -> Reloaded {
        self.reloaded(self.clone(), Vec::new(), overrides)
    }

    /// `config`, which comes after this one, with `overrides` over it.
    fn reloaded(
        &self,
        mut config: Config,
        mut problems: Vec<Problem>,
        overrides: &Overrides,
    ) -> Reloaded {
        config.override_by(overrides, &mut problems);
        let changed = self.changes_to(&config);
        Reloaded {
            config,
            problems,
            changed,
        }
    }

    fn override_by(&mut self, overrides: &Overrides, problems: &mut Vec<Problem>) {
        self.settings = self.base.clone();
        for (param, text) in overrides.iter() {
            if let (true, Ok(value)) = (
                param.row().context.at_run_time(),
                param.row().kind.parse(text),
            ) {
                let setting = &mut self.settings[param as usize];
                setting.value = value;
                setting.source = Place::ConfigSet;
            }
        }
        keep_relations(&mut self.settings, &self.base, problems);
    }

    /// Checks a `CONFIG SET` of several parameters, all or none, and returns the overrides with
    /// them.
    pub fn set(
        &self,
        pairs: &[(&str, &str)],
        reach: Reach,
        overrides: &Overrides,
    ) -> Result<Overrides, SetError> {
        let mut result = overrides.clone();
        let mut seen: Vec<(Param, &str)> = Vec::with_capacity(pairs.len());
        for (name, text) in pairs {
            let fail = |reason| SetError {
                argument: (*name).to_owned(),
                reason,
            };
            if let Some((_, constant)) = redis_constant(name) {
                if constant == text {
                    continue; // a client that wants what is so anyway
                }
                return Err(fail(SetErrorReason::Immutable));
            }
            let param = Param::find(name)
                .ok_or_else(|| fail(SetErrorReason::Unknown(Param::nearest(name))))?;
            let row = param.row();
            if seen.iter().any(|(other, _)| *other == param) {
                return Err(fail(SetErrorReason::Repeated));
            }
            if !row.context.at_run_time() {
                return Err(fail(SetErrorReason::Immutable));
            }
            if row.reach == Reach::Local && reach != Reach::Local {
                return Err(fail(SetErrorReason::NotOverTcp));
            }
            let value = row
                .kind
                .parse(text)
                .map_err(|error| fail(SetErrorReason::Invalid(error)))?;
            result
                .insert(param, row.kind.print(&value))
                .map_err(|error| fail(SetErrorReason::Full(error)))?;
            seen.push((param, name));
        }
        let mut settings = self.base.clone();
        for (param, text) in result.iter() {
            if let Ok(value) = param.row().kind.parse(text) {
                settings[param as usize].value = value;
            }
        }
        let concerned = |relation: &Relation| {
            let sides = [relation.low, relation.high];
            seen.iter().find(|(param, _)| sides.contains(param))
        };
        let blamed = broken_relations(&settings)
            .find_map(|(relation, message)| Some((concerned(relation)?.1, message)));
        match blamed {
            Some((name, message)) => Err(SetError {
                argument: name.to_owned(),
                reason: SetErrorReason::Relation(message),
            }),
            None => Ok(result),
        }
    }

    /// Takes over the segment size that `pg_control` holds. Only now is it known whether the sizes
    /// that the files set are large enough for it; a problem prevents the start.
    pub fn with_wal_segment_size(mut self, bytes: u64) -> Result<Config, Problems> {
        for settings in [&mut self.base, &mut self.settings] {
            let setting = &mut settings[Param::WalSegmentSize as usize];
            setting.value = Value::Number(bytes);
            setting.source = Place::ControlFile;
        }
        check_relations(&self.base)?;
        Ok(self)
    }

    /// The data directory, if the configuration was read from one.
    pub fn data_dir(&self) -> Option<&Path> {
        self.data_dir.as_deref()
    }

    /// The way to the data directory for this process.
    pub fn reach_data_dir(&self) -> Option<&Path> {
        if self.is_inside {
            Some(Path::new("."))
        } else {
            self.data_dir()
        }
    }

    /// The value of a parameter, as a file would write it.
    pub fn show(&self, param: Param) -> String {
        param.row().kind.print(self.value(param))
    }

    /// Where the value of a parameter comes from.
    pub fn source(&self, param: Param) -> &Place {
        &self.settings[param as usize].source
    }

    /// Whether a restart would give this parameter another value.
    pub fn pending_restart(&self, param: Param) -> bool {
        self.settings[param as usize].pending_restart
    }

    /// Names and values for `CONFIG GET`: the parameters that a glob pattern matches, and those
    /// names of Redis's that it matches and that mean something here, in Redis's way of writing.
    /// A name that both have is Redis's: its clients expect a number there.
    pub fn get_matching(&self, pattern: &str) -> Vec<(&'static str, String)> {
        let fits = |name: &str| glob::matches(pattern.as_bytes(), name.as_bytes(), true);
        let is_own = |param: &Param| param.row().redis_name != Some(param.name());
        let own = Param::ALL
            .iter()
            .copied()
            .filter(|param| fits(param.name()) && is_own(param));
        let mut found: Vec<_> = own.map(|param| (param.name(), self.show(param))).collect();
        let redis = Param::ALL.iter().filter_map(|param| {
            let name = param.row().redis_name?;
            fits(name).then(|| (name, param.row().kind.print_for_redis(self.value(*param))))
        });
        found.extend(redis);
        let constant = REDIS_CONSTANTS.iter().filter(|(name, _)| fits(name));
        found.extend(constant.map(|(name, value)| (*name, (*value).to_owned())));
        found
    }

    pub(crate) fn value(&self, param: Param) -> &Value {
        &self.settings[param as usize].value
    }

    /// What the file of the data directory says; nothing where there is none.
    fn reading(&self) -> Reading {
        let mut reading = self.empty_reading();
        if let Some(data_dir) = &self.data_dir {
            reading.file(&data_dir.join(FILE_NAME));
        }
        reading
    }

    fn empty_reading(&self) -> Reading {
        Reading::from_inside(self.data_dir.clone().filter(|_| self.is_inside))
    }

    /// The layers below `CONFIG SET`, the file's being `reading`.
    fn read_layers(&self, reading: Reading) -> Candidate {
        let mut candidate = Candidate {
            settings: default_settings(),
            problems: Vec::new(),
            unreadable: false,
            wrong: Vec::new(),
        };
        // What rd_initdb fixed is no default.
        let fixed = Param::ALL
            .iter()
            .filter(|param| param.row().context == Context::Initdb);
        for param in fixed {
            candidate.settings[*param as usize] = self.base[*param as usize].clone();
        }
        candidate.unreadable = !reading.problems.is_empty();
        candidate.problems = reading.problems;
        for assignment in reading.assignments {
            candidate.assign(assignment);
        }
        for (name, value) in &self.command_line {
            let (name, value) = (name.clone(), value.clone());
            candidate.assign(Assignment {
                name,
                value,
                place: Place::CommandLine,
            });
        }
        candidate
    }

    /// Puts the running values back where a change needs a restart, and reports it.
    fn keep_what_needs_restart(&self, settings: &mut [Setting], problems: &mut Vec<Problem>) {
        for param in Param::ALL.iter().copied() {
            let row = param.row();
            let (new, old) = (&settings[param as usize], &self.base[param as usize]);
            if row.context.at_run_time() {
                continue;
            }
            let both_automatic = new.source == Place::Default && old.source == Place::Default;
            let pending = new.value != old.value && !both_automatic;
            if pending {
                let message = format!(
                    "cannot be changed to {} without restarting the server; {} stays in force",
                    row.kind.print(&new.value),
                    row.kind.print(&old.value),
                );
                problems.push(Problem::new(new.source.clone(), Some(row.name), message));
            }
            settings[param as usize] = Setting {
                pending_restart: pending,
                ..old.clone()
            };
        }
    }

    fn changes_to(&self, new: &Config) -> Vec<Changed> {
        let differs = |param: &Param| self.value(*param) != new.value(*param);
        let changed = Param::ALL.iter().copied().filter(differs);
        changed
            .map(|param| Changed {
                param,
                value: new.show(param),
            })
            .collect()
    }
}

impl Default for Config {
    /// The defaults alone.
    fn default() -> Config {
        Config::from_pairs(&[]).expect("the defaults are valid, as a test shows")
    }
}

/// Settings of Redis that are fixed here, for clients that ask.
const REDIS_CONSTANTS: &[(&str, &str)] = &[
    ("appendonly", "yes"),
    ("appendfsync", "always"),
    ("save", ""),
    ("maxmemory", "0"),
    ("maxmemory-policy", "noeviction"),
];

fn redis_constant(name: &str) -> Option<&'static (&'static str, &'static str)> {
    REDIS_CONSTANTS
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
}

/// What the layers below `CONFIG SET` come to.
struct Candidate {
    settings: Vec<Setting>,
    problems: Vec<Problem>,
    /// Text could not be made out, so nobody knows what was meant.
    unreadable: bool,
    /// Parameters whose value was refused.
    wrong: Vec<Param>,
}

impl Candidate {
    /// The settings, as a server would start with them.
    fn checked(self, cores: usize) -> Result<Vec<Setting>, Problems> {
        if !self.problems.is_empty() {
            return Err(Problems(self.problems));
        }
        let mut settings = self.settings;
        resolve_automatic(&mut settings, cores);
        check_relations(&settings)?;
        Ok(settings)
    }

    fn assign(&mut self, Assignment { name, value, place }: Assignment) {
        let Some(param) = Param::find(&name) else {
            note(&mut self.problems, || {
                let message = match Param::nearest(&name) {
                    Some(nearest) => format!("no such parameter; did you mean \"{nearest}\"?"),
                    None => "no such parameter".to_owned(),
                };
                Problem::new(place, Some(&name), message)
            });
            return;
        };
        let row = param.row();
        let refused = if row.context == Context::Initdb {
            Some("is fixed by rd_initdb and cannot be set".to_owned())
        } else {
            match row.kind.parse(&value) {
                Ok(value) => {
                    let setting = Setting {
                        value,
                        source: place.clone(),
                        pending_restart: false,
                    };
                    self.settings[param as usize] = setting;
                    None
                }
                Err(error) => Some(error.to_string()),
            }
        };
        if let Some(message) = refused {
            note(&mut self.problems, || {
                Problem::new(place, Some(row.name), message)
            });
            if !self.wrong.contains(&param) {
                self.wrong.push(param);
            }
        }
    }
}

fn default_settings() -> Vec<Setting> {
    let setting = |param: &Param| Setting {
        value: param
            .row()
            .kind
            .parse(param.row().default)
            .expect("a test parses every default"),
        source: Place::Default,
        pending_restart: false,
    };
    Param::ALL.iter().map(setting).collect()
}

/// Puts real values in the place of 0 where 0 means that the server chooses.
fn resolve_automatic(settings: &mut [Setting], cores: usize) {
    let shared_buffers = settings[Param::SharedBuffers as usize].value.as_u64();
    let wal_buffers = &mut settings[Param::WalBuffers as usize].value;
    *wal_buffers = Value::Number(match wal_buffers.as_u64() {
        0 => {
            let part = (shared_buffers / 32).clamp(4 * MB, 64 * MB);
            part - part % crate::limits::WAL_PAGE_BYTES as u64
        }
        given => given.max(WAL_BUFFERS_BYTES_MIN),
    });
    let backends = &mut settings[Param::Backends as usize].value;
    if backends.as_u64() == 0 {
        *backends = Value::Number(cores.clamp(2, BACKENDS_MAX) as u64);
    }
}

/// The relations that do not hold, in words.
fn broken_relations(settings: &[Setting]) -> impl Iterator<Item = (&'static Relation, String)> {
    RELATIONS.iter().filter_map(|relation| {
        let low = &settings[relation.low as usize];
        if relation.low == Param::WalSegmentSize && low.source == Place::Default {
            return None; // pg_control has not been read yet
        }
        let low = low.value.as_u64();
        let high = settings[relation.high as usize].value.as_u64();
        if low.saturating_mul(relation.times) <= high {
            return None;
        }
        let times = match relation.times {
            1 => String::new(),
            times => format!("{times} times "),
        };
        let message = format!(
            "\"{}\" ({}) must be at least {times}\"{}\" ({})",
            relation.high,
            print_size(high),
            relation.low,
            print_size(low),
        );
        Some((relation, message))
    })
}

/// An error if a relation does not hold: the first one.
fn check_relations(settings: &[Setting]) -> Result<(), Problems> {
    match broken_relations(settings).next() {
        Some((relation, message)) => Err(Problems(vec![relation_problem(
            settings, relation, message,
        )])),
        None => Ok(()),
    }
}

fn relation_problem(settings: &[Setting], relation: &Relation, message: String) -> Problem {
    let source = |param: &Param| &settings[*param as usize].source;
    let sides = [relation.high, relation.low];
    let by_command = sides.iter().find(|side| *source(side) == Place::ConfigSet);
    let somewhere = |side: &&Param| !matches!(source(side), Place::Default | Place::ControlFile);
    let said = by_command
        .or_else(|| sides.iter().find(somewhere))
        .copied()
        .unwrap_or(relation.high);
    Problem::new(
        settings[said as usize].source.clone(),
        Some(said.name()),
        message,
    )
}

/// Puts both sides of every broken relation back to `fallback`, where all relations hold.
fn keep_relations(settings: &mut [Setting], fallback: &[Setting], problems: &mut Vec<Problem>) {
    // Each turn puts back a value that differed, so there are no more turns than values.
    for _ in 0..=2 * RELATIONS.len() {
        let Some((relation, message)) = broken_relations(settings).next() else {
            return;
        };
        problems.push(relation_problem(settings, relation, message));
        for param in [relation.low, relation.high] {
            settings[param as usize] = fallback[param as usize].clone();
        }
    }
    settings.clone_from_slice(fallback);
}
