//! Counts and bytes of records, by kind, and within a kind by what it does to pages.

use rd_base::Lsn;
use rd_format::wal_record::{PageOp, RecordKind, RecordView};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// One line of the table.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Counts {
    number: u64,
    /// Bytes but for images of pages.
    record_bytes: u64,
    image_bytes: u64,
}

impl Counts {
    fn add(&mut self, other: Counts) {
        self.number += other.number;
        self.record_bytes += other.record_bytes;
        self.image_bytes += other.image_bytes;
    }

    fn bytes(self) -> u64 {
        self.record_bytes + self.image_bytes
    }
}

/// The table.
#[derive(Debug, Default)]
pub struct Stats {
    /// By the kind's number and what is done; one line of a kind if not in detail.
    lines: BTreeMap<(u8, &'static str), Counts>,
    detail: bool,
}

impl Stats {
    /// An empty table; with `detail`, of one line for each thing that records of a kind do.
    pub fn new(detail: bool) -> Stats {
        Stats {
            lines: BTreeMap::new(),
            detail,
        }
    }

    /// Counts a record. What is damaged inside counts as far as it goes.
    pub fn count(&mut self, record: &RecordView<'_>) {
        let kind = record.kind() as u8;
        let total = record.header().padded_len() as u64;
        let mut image_bytes = 0;
        let mut op_bytes = 0;
        for block in record.blocks().flatten() {
            if let Some(image) = block.image {
                let bytes = image.bytes() as u64;
                image_bytes += bytes;
                self.detail(
                    kind,
                    "page image",
                    Counts {
                        number: 1,
                        image_bytes: bytes,
                        record_bytes: 0,
                    },
                );
            }
            for op in block.ops().flatten() {
                let bytes = op.bytes() as u64;
                op_bytes += bytes;
                self.detail(
                    kind,
                    op_name(&op),
                    Counts {
                        number: 1,
                        record_bytes: bytes,
                        image_bytes: 0,
                    },
                );
            }
        }
        let rest = total.saturating_sub(image_bytes);
        let whole = if self.detail {
            // The operations have lines of their own; this one is headers, references, padding.
            Counts {
                number: 1,
                record_bytes: rest.saturating_sub(op_bytes),
                image_bytes: 0,
            }
        } else {
            Counts {
                number: 1,
                record_bytes: rest,
                image_bytes,
            }
        };
        self.lines.entry((kind, "")).or_default().add(whole);
    }

    fn detail(&mut self, kind: u8, what: &'static str, counts: Counts) {
        if self.detail {
            self.lines.entry((kind, what)).or_default().add(counts);
        }
    }

    /// The table in the layout of `pg_waldump`. A line within a kind counts operations, and the
    /// total counts records.
    pub fn table(&self, start: Lsn, end: Lsn) -> String {
        let mut total = Counts::default();
        for (&(_, what), counts) in &self.lines {
            total.add(*counts);
            if !what.is_empty() {
                total.number -= counts.number;
            }
        }
        let mut text = format!("WAL statistics between {start} and {end}:\n");
        let heads = ["N", "Record size", "FPI size", "Combined size"];
        push(
            &mut text,
            "Type",
            heads.map(|head| (head.to_owned(), "(%)".to_owned())),
        );
        push(
            &mut text,
            "----",
            heads.map(|head| ("-".repeat(head.len()), "---".to_owned())),
        );
        for (&(kind, what), counts) in &self.lines {
            let kind = RecordKind::from_number(kind).map_or("unknown", RecordKind::name);
            let name = if what.is_empty() {
                kind.to_owned()
            } else {
                format!("{kind}/{what}")
            };
            let cells = [
                (counts.number, total.number),
                (counts.record_bytes, total.record_bytes),
                (counts.image_bytes, total.image_bytes),
                (counts.bytes(), total.bytes()),
            ];
            let cells = cells.map(|(part, whole)| (part.to_string(), percent(part, whole)));
            push(&mut text, &name, cells);
        }
        let share = |part| format!("[{}%]", percent(part, total.bytes()));
        push(
            &mut text,
            "--------",
            [(); 4].map(|()| ("--------".to_owned(), String::new())),
        );
        let totals = [
            (total.number.to_string(), String::new()),
            (total.record_bytes.to_string(), share(total.record_bytes)),
            (total.image_bytes.to_string(), share(total.image_bytes)),
            (total.bytes().to_string(), "[100%]".to_owned()),
        ];
        push(&mut text, "Total", totals);
        text
    }
}

fn push(text: &mut String, name: &str, cells: [(String, String); 4]) {
    let [n, record, image, all] = cells.map(|(value, share)| format!("{value:>15} {share:>8}"));
    let line = format!("{name:<27}{n}{record}{image}{all}");
    writeln!(text, "{}", line.trim_end()).expect("a string takes all");
}

fn percent(part: u64, whole: u64) -> String {
    let percent = if whole == 0 {
        0.0
    } else {
        100.0 * part as f64 / whole as f64
    };
    format!("{percent:.2}")
}

fn op_name(op: &PageOp<'_>) -> &'static str {
    match op {
        PageOp::Upsert(_) => "upsert",
        PageOp::RemoveVersion { .. } => "remove version",
        PageOp::SplitLeft { .. } => "split left",
        PageOp::InsertChild { .. } => "insert child",
        PageOp::RemoveChild { .. } => "remove child",
        PageOp::SetChild { .. } => "set child",
        PageOp::SetRightLink { .. } => "right link",
        PageOp::ChangeFlags { .. } => "flags",
        PageOp::SetBit(_) => "use block",
        PageOp::ClearBit(_) => "free block",
    }
}
