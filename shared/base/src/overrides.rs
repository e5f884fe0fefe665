//! The values that `CONFIG SET` has given, in the form in which processes hand them on: text of
//! bounded size, in the grammar of configuration files, which lies in shared memory.

use crate::conf_file::{Reading, quote};
use crate::limits::{CONFIG_INCLUDE_DEPTH_MAX, CONFIG_OVERRIDES_BYTES_MAX};
use crate::params::Param;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

/// Values set by command. Its bytes never exceed [`CONFIG_OVERRIDES_BYTES_MAX`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides(BTreeMap<Param, String>);

/// A further value does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OverridesFull;

impl fmt::Display for OverridesFull {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "values set by CONFIG SET would take more than {CONFIG_OVERRIDES_BYTES_MAX} bytes; \
             use CONFIG REWRITE and a reload"
        )
    }
}

impl std::error::Error for OverridesFull {}

/// The bytes are not what [`Overrides::encode`] writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadOverrides(pub String);

impl fmt::Display for BadOverrides {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "values set by CONFIG SET cannot be read: {}", self.0)
    }
}

impl std::error::Error for BadOverrides {}

impl Overrides {
    /// None.
    pub fn new() -> Overrides {
        Overrides::default()
    }

    /// Sets a value, or fails and changes nothing.
    pub fn insert(&mut self, param: Param, value: String) -> Result<(), OverridesFull> {
        let old = self.0.insert(param, value);
        if self.encode().len() <= CONFIG_OVERRIDES_BYTES_MAX {
            return Ok(());
        }
        match old {
            Some(old) => self.0.insert(param, old),
            None => self.0.remove(&param),
        };
        Err(OverridesFull)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The values, in the order of the table.
    pub fn iter(&self) -> impl Iterator<Item = (Param, &str)> {
        self.0.iter().map(|(param, value)| (*param, value.as_str()))
    }

    /// The values as [`crate::conf_file::rewrite`] takes them.
    pub fn to_changes(&self) -> Vec<(Param, String)> {
        self.0
            .iter()
            .map(|(param, value)| (*param, value.clone()))
            .collect()
    }

    /// The values as bytes, one line each; at most [`CONFIG_OVERRIDES_BYTES_MAX`].
    pub fn encode(&self) -> Vec<u8> {
        let mut text = String::new();
        for (param, value) in &self.0 {
            text.push_str(&format!("{param} = {}\n", quote(value)));
        }
        text.into_bytes()
    }

    /// The inverse of [`Overrides::encode`].
    pub fn decode(bytes: &[u8]) -> Result<Overrides, BadOverrides> {
        let mut reading = Reading::default();
        // At this depth an include is refused: the bytes name no files.
        reading.text(Path::new("CONFIG SET"), bytes, CONFIG_INCLUDE_DEPTH_MAX);
        if let Some(problem) = reading.problems.first() {
            return Err(BadOverrides(problem.to_string()));
        }
        let mut overrides = Overrides::new();
        for assignment in reading.assignments {
            let param = Param::find(&assignment.name)
                .ok_or_else(|| BadOverrides(format!("no parameter \"{}\"", assignment.name)))?;
            overrides
                .insert(param, assignment.value)
                .map_err(|error| BadOverrides(error.to_string()))?;
        }
        Ok(overrides)
    }
}
