//! Structs: one event, or several.

use std::collections::HashSet;

use syn::{Fields, Ident, LitStr, Type};

use super::{
    fields::OwnFields,
    parts::{PayloadOptions, checked_exchange, event_name},
    several::Several,
    type_options,
};
use crate::{
    attr::Attr,
    errors::Errors,
    model::{Codec, Methods, Outline, Route, Struct},
    options::{Given, Options},
    place::Place,
    type_name::type_name,
};

pub(super) fn parse(
    fields: &Fields,
    attrs: Vec<Attr>,
    outline: &mut Outline,
    errors: &mut Errors,
) -> Option<Struct> {
    let (shared, events) = split(attrs);
    let mut options = type_options(shared, Place::Struct, outline, errors);
    let exchange = checked_exchange(options.string("exchange", errors), errors);
    let fields = OwnFields::new(fields, &outline.ident);
    let routes = if events.is_empty() {
        only_route(exchange, &mut options, &fields, &outline.ident, errors)
    } else {
        let several = Several::new(exchange, &fields);
        let (routes, methods) = several.parse(events, errors);
        outline.methods = Methods::Named(methods);
        routes
    };
    let payload = PayloadOptions::take(&mut options, errors).for_type(&outline.ident);
    let upcasts = options.types("upcasts", errors);
    refuse_repetitions(&upcasts, errors);
    let raw = match &payload.codec {
        Codec::Ours(ident) if ident == "Raw" => fields.only(),
        _ => None,
    };
    let partition_key = fields.partition_key(errors);
    Some(Struct {
        routes: routes?,
        payload,
        partition_key,
        upcasts,
        raw,
    })
}

/// A type that is listed twice would be read as the first.
fn refuse_repetitions(upcasts: &[Type], errors: &mut Errors) {
    let mut before = HashSet::new();
    for ty in upcasts {
        let text = type_name(ty);
        if !before.insert(text.clone()) {
            errors.at(ty, format!("`{text}` is listed twice; keep one"));
        }
    }
}

/// What all events share, and one attribute for each event where there are several.
///
/// There are several when more than one attribute says `key` or `name`, and when one says `name` while
/// the exchange stands in another: so a type can start with one event that has its own method.
fn split(attrs: Vec<Attr>) -> (Vec<Attr>, Vec<Attr>) {
    let is_event = |attr: &Attr| attr.has("key") || attr.has("name");
    let count = |name| attrs.iter().filter(|attr| attr.has(name)).count();
    let apart = attrs
        .iter()
        .any(|attr| attr.has("name") && !attr.has("exchange"))
        && count("exchange") > 0;
    if count("key") > 1 || count("name") > 1 || apart {
        attrs.into_iter().partition(|attr| !is_event(attr))
    } else {
        (attrs, Vec::new())
    }
}

fn only_route(
    exchange: Given<LitStr>,
    options: &mut Options,
    fields: &OwnFields<'_>,
    ident: &Ident,
    errors: &mut Errors,
) -> Option<Vec<Route>> {
    let exchange = exchange.required(
        errors,
        ident,
        "missing `exchange`; add `#[event(exchange = \"order\")]`",
    );
    let literal = options.string("key", errors);
    let literal = literal.required(
        errors,
        ident,
        "missing `key`; add `#[event(key = \"order.v1.submit\")]`",
    );
    let name = event_name(options, ident, errors);
    let key = literal.and_then(|literal| fields.checked_key(literal, errors));
    Some(vec![Route {
        exchange: exchange?,
        name,
        key: key?,
    }])
}
