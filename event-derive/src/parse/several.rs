//! Structs with several events: a name and a key for each.

use quote::ToTokens;
use syn::{Ident, LitStr};

use super::{fields::OwnFields, parts::checked_exchange};
use crate::{
    attr::Attr,
    errors::Errors,
    model::{Route, RouteKey},
    options::{Given, Options},
    place::Place,
};

/// The events of such a type, one after another.
pub(super) struct Several<'a> {
    exchange: Given<LitStr>,
    fields: &'a OwnFields<'a>,
    /// Exchange and pattern of those before, and their names.
    seen: Vec<((String, String), String)>,
    methods: Vec<Ident>,
}

impl<'a> Several<'a> {
    pub(super) fn new(exchange: Given<LitStr>, fields: &'a OwnFields<'a>) -> Self {
        Self {
            exchange,
            fields,
            seen: Vec::new(),
            methods: Vec::new(),
        }
    }

    /// Their routes, and the methods that they have whatever else is wrong.
    pub(super) fn parse(
        mut self,
        events: Vec<Attr>,
        errors: &mut Errors,
    ) -> (Option<Vec<Route>>, Vec<Ident>) {
        // Each is looked at before any is missed.
        let routes: Vec<_> = events
            .into_iter()
            .map(|attr| self.event(attr, errors))
            .collect();
        (routes.into_iter().collect(), self.methods)
    }

    fn event(&mut self, attr: Attr, errors: &mut Errors) -> Option<Route> {
        let first = attr.options.first().map(|option| option.name.clone());
        let mut options = Options::collect(vec![attr], Place::Event, errors);
        let literal = options.string("name", errors);
        let name = literal.required(
            errors,
            &first,
            "each of several events has a name; add `name = \"submit\"`",
        );
        let at = name
            .as_ref()
            .map_or_else(|| first.to_token_stream(), ToTokens::to_token_stream);
        let known = name
            .as_ref()
            .is_some_and(|name| self.add_method(name, errors));
        let literal = options.string("key", errors);
        let literal = literal.required(
            errors,
            &at,
            "missing `key`; add `key = \"order.v1.submit\"`",
        );
        let key = literal.and_then(|literal| self.fields.checked_key(literal, errors));
        let exchange = self.exchange_of(&mut options, &at, errors);
        let (name, exchange, key) = (name.filter(|_| known)?, exchange?, key?);
        self.refuse_known_key(&exchange, &name, &key, errors);
        Some(Route {
            exchange,
            name,
            key,
        })
    }

    /// Whether the type can have a method of this name for the event; then it has.
    fn add_method(&mut self, name: &LitStr, errors: &mut Errors) -> bool {
        let text = name.value();
        let mistake = method_mistake(&text).or_else(|| {
            let repeated = self.methods.iter().any(|earlier| *earlier == text);
            repeated.then(|| format!("two events are named `{text}`; the name is that of a method"))
        });
        match mistake {
            None => self.methods.push(Ident::new(&text, name.span())),
            Some(ref mistake) => errors.at(name, mistake),
        }
        mistake.is_none()
    }

    /// An exchange is said once for all, or by each event.
    fn exchange_of(
        &self,
        options: &mut Options,
        at: impl ToTokens,
        errors: &mut Errors,
    ) -> Option<LitStr> {
        let own = checked_exchange(options.string("exchange", errors), errors);
        match (&self.exchange, own) {
            (Given::Yes(shared), Given::Yes(own)) => {
                let message = format!(
                    "the exchange of all events is `{}` already; say it once, or on each",
                    shared.value()
                );
                errors.at(own, message);
                None
            }
            (Given::Yes(shared), _) => Some(shared.clone()),
            (Given::Wrong, own) => own.value(),
            (Given::No, own) => {
                let message = "missing `exchange`; add `#[event(exchange = \"order\")]` for all events of the type";
                own.required(errors, at, message)
            }
        }
    }

    fn refuse_known_key(
        &mut self,
        exchange: &LitStr,
        name: &LitStr,
        key: &RouteKey,
        errors: &mut Errors,
    ) {
        let address = (exchange.value(), key.key.pattern());
        match self.seen.iter().find(|(seen, _)| *seen == address) {
            Some((_, earlier)) => {
                let message = format!("`{earlier}` has this key already; give each event its own");
                errors.at(&key.literal, message);
            }
            None => self.seen.push((address, name.value())),
        }
    }
}

/// Why an event of this name cannot have a method and a constant.
fn method_mistake(name: &str) -> Option<String> {
    let legal = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    if !name.starts_with(|c: char| c.is_ascii_lowercase()) || !name.chars().all(legal) {
        let shown = name.escape_debug();
        return Some(format!(
            "`{shown}` cannot be the name of a method; write it in snake case: `submit`"
        ));
    }
    // Now that it looks like a name, all that can be wrong with it is being a keyword.
    syn::parse_str::<Ident>(name)
        .is_err()
        .then(|| format!("`{name}` is a keyword of Rust; use another name"))
}
