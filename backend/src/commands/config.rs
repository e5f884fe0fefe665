//! CONFIG: parameters as the clients of Redis know them.

use super::Call;
use super::admin::signal_postmaster;
use super::scan::check_pattern;
use crate::dispatch::{Failure, Flow, Outcome};
use rd_base::Overrides;
use rd_base::config::{SetError, SetErrorReason};
use rd_base::params::{Param, Reach};
use rd_sys::fault;
use rd_sys::process::Signal;
use std::fmt::Display;

/// Greatest number of patterns in a CONFIG GET: each is held against every parameter.
const PATTERNS_MAX: usize = 1024;

/// CONFIG GET pattern [pattern …].
pub fn get(call: &mut Call<'_>) -> Outcome {
    if call.args.len() > PATTERNS_MAX + 2 {
        return Err(format!("ERR CONFIG GET takes {PATTERNS_MAX} patterns at most").into());
    }
    check_pattern(call.args.skip(2).iter().map(<[u8]>::len).sum())?;
    let mut found: Vec<(&str, String)> = Vec::new();
    for pattern in call.args.skip(2).iter() {
        let pattern = String::from_utf8_lossy(pattern);
        for (name, value) in call.server.config.get_matching(&pattern) {
            if !found.iter().any(|(known, _)| *known == name) {
                found.push((name, value));
            }
        }
    }
    let mut reply = call.reply();
    reply.map(found.len());
    for (name, value) in found {
        reply.bulk(name.as_bytes());
        reply.bulk(value.as_bytes());
    }
    Ok(Flow::Done)
}

/// CONFIG SET name value [name value …]: all or none, in force at once in this backend and a
/// moment later in every other process.
pub fn set(call: &mut Call<'_>) -> Outcome {
    if !call.args.len().is_multiple_of(2) {
        return Err("ERR wrong number of arguments for 'config|set' command".into());
    }
    let texts: Option<Vec<(&str, &str)>> = call
        .args
        .skip(2)
        .pairs()
        .map(|(name, value)| {
            Some((
                std::str::from_utf8(name).ok()?,
                std::str::from_utf8(value).ok()?,
            ))
        })
        .collect();
    let pairs = texts.ok_or("ERR CONFIG SET failed - a name or value is not UTF-8 text")?;
    // Whoever is not its own user must not point it at other paths.
    let is_owner = call.session.unix_uid == Some(nix::unistd::geteuid().as_raw());
    let reach = if is_owner {
        Reach::Local
    } else {
        Reach::Anyone
    };
    let config = std::sync::Arc::clone(&call.server.config);
    let shared = std::sync::Arc::clone(&call.server.store.shared);
    for (name, value) in &pairs {
        // With one that cannot be armed no server would start, once CONFIG REWRITE has written it.
        if Param::find(name) == Some(Param::FaultPoints)
            && let Err(error) = fault::check(value)
        {
            return Err(failed(name, &error));
        }
    }
    let change = |overrides: &Overrides| config.set(&pairs, reach, overrides);
    let overrides = shared
        .change_overrides(change)
        .map_err(|error: SetError| refusal(&error))?;
    call.server.reconfigure(std::sync::Arc::new(
        config.with_overrides(&overrides).config,
    ));
    signal_postmaster(Signal::Usr1)?;
    for (name, value) in &pairs {
        log::info!(
            "connection {}: CONFIG SET {name} = {value}",
            call.session.id
        );
    }
    call.reply().ok();
    Ok(Flow::Done)
}

/// The error reply, in Redis's words where it has the case.
fn refusal(error: &SetError) -> Failure {
    let name = &error.argument;
    Failure::Reply(match &error.reason {
        SetErrorReason::Unknown(None) => {
            format!("ERR Unknown option or number of arguments for CONFIG SET - '{name}'")
        }
        reason => return failed(name, reason),
    })
}

fn failed(name: &str, reason: &dyn Display) -> Failure {
    format!("ERR CONFIG SET failed (possibly related to argument '{name}') - {reason}").into()
}

/// CONFIG REWRITE: what CONFIG SET has changed goes into `redoubt.conf`.
pub fn rewrite(call: &mut Call<'_>) -> Outcome {
    call.server
        .rewrite_configuration()
        .map_err(|error| format!("ERR Rewriting config file: {error}"))?;
    log::info!(
        "connection {}: CONFIG REWRITE executed with success",
        call.session.id
    );
    call.reply().ok();
    Ok(Flow::Done)
}

/// CONFIG RESETSTAT.
pub fn resetstat(call: &mut Call<'_>) -> Outcome {
    call.server.store.shared.stats.reset();
    call.reply().ok();
    Ok(Flow::Done)
}
