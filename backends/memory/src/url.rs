//! `memory://` URLs.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError, Weak},
};

use event_core::{Error, ErrorKind, Result};

use crate::{broker::MemoryBroker, state::Shared};

/// The brokers with a name, for as long as somebody uses them.
static NAMED: LazyLock<Mutex<HashMap<String, Weak<Shared>>>> = LazyLock::new(Mutex::default);

/// The broker that a URL names.
pub(crate) fn broker(url: &str) -> Result<MemoryBroker> {
    let name = name(url)?;
    if name.is_empty() {
        return Ok(MemoryBroker::new());
    }
    let mut named = NAMED.lock().unwrap_or_else(PoisonError::into_inner);
    named.retain(|_, broker| broker.strong_count() > 0);
    if let Some(shared) = named.get(name).and_then(Weak::upgrade) {
        return Ok(MemoryBroker { shared });
    }
    let broker = MemoryBroker::new();
    named.insert(name.to_owned(), Arc::downgrade(&broker.shared));
    Ok(broker)
}

fn name(url: &str) -> Result<&str> {
    let Some(name) = url.strip_prefix("memory://") else {
        return Err(wrong("does not begin with `memory://`"));
    };
    let legal = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    match name.bytes().find(|byte| !legal(*byte)) {
        None if name.len() <= 200 => Ok(name),
        None => Err(wrong("has a name of more than 200 characters")),
        // In the order in which a URL may have them: what comes first explains the rest.
        Some(_) if name.contains('@') => Err(wrong("has a user or a password")),
        Some(b':') => Err(wrong("has a port")),
        Some(b'/') => Err(wrong("has a path")),
        Some(b'?') => Err(wrong("has a query")),
        Some(b'#') => Err(wrong("has a fragment")),
        Some(_) => Err(wrong("has a name with other characters")),
    }
}

/// The URL itself is not shown: it may hold a password that was meant for another broker.
fn wrong(what: &str) -> Error {
    Error::new(
        ErrorKind::InvalidUrl,
        format!(
            "the URL {what}; use `memory://` for a broker of its own or `memory://name` for one that this \
             process shares, with a name of `A-Z a-z 0-9 . _ -`"
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_without_a_name_is_a_fresh_broker() {
        assert!(!Arc::ptr_eq(
            &broker("memory://").unwrap().shared,
            &broker("memory://").unwrap().shared
        ));
    }

    #[test]
    fn a_name_is_shared_until_the_last_user_drops_it() {
        let first = broker("memory://shared-until-dropped").unwrap();
        let second = broker("memory://shared-until-dropped").unwrap();
        assert!(Arc::ptr_eq(&first.shared, &second.shared));
        first.shared.update(|state| state.max_message = Some(1));
        drop((first, second));
        let third = broker("memory://shared-until-dropped").unwrap();
        assert_eq!(third.shared.update(|state| state.max_message), None);
    }

    #[test]
    fn anything_else_is_refused_without_repeating_it() {
        for (url, what) in [
            ("redis://localhost", "does not begin with"),
            ("memory:", "does not begin with"),
            ("memory://orders:5672", "port"),
            ("memory://orders/", "path"),
            ("memory://orders?prefetch=1", "query"),
            ("memory://orders#a", "fragment"),
            ("memory://anna:secret@orders", "password"),
            ("memory://bestellungen für alle", "other characters"),
        ] {
            let error = broker(url).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidUrl, "{url}");
            let text = error.to_string();
            assert!(
                text.contains(what) && text.contains("memory://name"),
                "{url}: {text}"
            );
            assert!(!text.contains("secret"));
        }
    }
}
