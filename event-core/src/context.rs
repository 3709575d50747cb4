//! What the framework remembers of a message between attempts: headers of ours on the copy.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use smol_str::SmolStr;

use crate::{
    header::{Headers, RESERVED_PREFIX},
    message::Message,
};

pub(crate) const ATTEMPT: &str = "switchboard-attempt";
pub(crate) const HANDLERS: &str = "switchboard-handlers";
pub(crate) const REJECTIONS: &str = "switchboard-rejections";
pub(crate) const ERROR: &str = "switchboard-error";
pub(crate) const FIRST_FAILURE: &str = "switchboard-first-failure";
pub(crate) const LAST_FAILURE: &str = "switchboard-last-failure";
pub(crate) const UNKNOWN_TRIES: &str = "switchboard-unknown-tries";
pub(crate) const UNKNOWN_WAITED: &str = "switchboard-unknown-waited-ms";
pub(crate) const REASON: &str = "switchboard-reason";
pub(crate) const CONSUMER: &str = "switchboard-consumer";

/// A handler's verdict that it will never handle the message, kept until the others are done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Rejection {
    pub(crate) handler: SmolStr,
    pub(crate) reason: SmolStr,
    pub(crate) error: String,
}

/// Which attempt a message is at.
pub(crate) fn attempt(headers: &Headers) -> u32 {
    // Nearly every message is at its first attempt and has no headers at all.
    if headers.is_empty() {
        1
    } else {
        number(headers, ATTEMPT).unwrap_or(1)
    }
}

pub(crate) fn number<T: std::str::FromStr>(headers: &Headers, name: &str) -> Option<T> {
    headers.text(name)?.parse().ok()
}

pub(crate) fn time(headers: &Headers, name: &str) -> Option<SystemTime> {
    humantime::parse_rfc3339(headers.text(name)?).ok()
}

pub(crate) fn set_time(message: &mut Message, name: &'static str, time: SystemTime) {
    message.headers_mut().set(
        SmolStr::new_static(name),
        humantime::format_rfc3339_micros(time).to_string(),
    );
}

pub(crate) fn set(message: &mut Message, name: &'static str, value: impl ToString) {
    message
        .headers_mut()
        .set(SmolStr::new_static(name), value.to_string());
}

/// The handlers that are left to run; nothing means all that take the message.
pub(crate) fn handlers_left(headers: &Headers) -> Option<Vec<SmolStr>> {
    let text = headers.text(HANDLERS)?;
    Some(
        text.split(',')
            .filter(|name| !name.is_empty())
            .map(SmolStr::new)
            .collect(),
    )
}

pub(crate) fn set_handlers(message: &mut Message, names: &[SmolStr]) {
    message
        .headers_mut()
        .set(SmolStr::new_static(HANDLERS), names.join(","));
}

pub(crate) fn rejections(headers: &Headers) -> Vec<Rejection> {
    headers
        .text(REJECTIONS)
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default()
}

pub(crate) fn set_rejections(message: &mut Message, rejections: &[Rejection]) {
    if rejections.is_empty() {
        message.headers_mut().remove(REJECTIONS);
    } else if let Ok(text) = serde_json::to_string(rejections) {
        // Strings always encode as JSON.
        message
            .headers_mut()
            .set(SmolStr::new_static(REJECTIONS), text);
    }
}

pub(crate) fn unknown_waited(headers: &Headers) -> Duration {
    Duration::from_millis(number(headers, UNKNOWN_WAITED).unwrap_or(0))
}

/// Takes off what the framework remembers, but for the handlers that a replay runs.
pub(crate) fn forget(message: &mut Message) {
    message
        .headers_mut()
        .retain(|name| !name.starts_with(RESERVED_PREFIX) || name == HANDLERS);
}
