//! Structs: one event, or several.

use quote::ToTokens;
use syn::{Fields, Ident, Index, LitStr, Member, ext::IdentExt, spanned::Spanned};

use super::{
    parts::{PayloadOptions, checked_exchange, checked_key, event_name},
    type_options,
};
use crate::{
    attr::Attr,
    errors::Errors,
    model::{Codec, Field, Methods, Outline, Route, RouteKey, Shown, Struct},
    options::{Given, Options, Place},
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
        let several = Several {
            exchange,
            fields: &fields,
            seen: Vec::new(),
            methods: Vec::new(),
        };
        let (routes, methods) = several.parse(events, errors);
        outline.methods = Methods::Named(methods);
        routes
    };
    let payload = PayloadOptions::take(&mut options, errors).for_type(&outline.ident);
    let upcasts = options.types("upcasts", errors);
    for (at, ty) in upcasts.iter().enumerate() {
        let text = ty.to_token_stream().to_string();
        if upcasts[..at]
            .iter()
            .any(|earlier| earlier.to_token_stream().to_string() == text)
        {
            errors.at(ty, format!("`{text}` is listed twice; keep one"));
        }
    }
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

/// The events of a type with several, one after another.
struct Several<'a> {
    exchange: Given<LitStr>,
    fields: &'a OwnFields<'a>,
    /// Exchange, pattern and name of those before.
    seen: Vec<(String, String, String)>,
    methods: Vec<Ident>,
}

impl Several<'_> {
    fn parse(mut self, events: Vec<Attr>, errors: &mut Errors) -> (Option<Vec<Route>>, Vec<Ident>) {
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
        let method = name.and_then(|name| self.method(&name, errors));
        let literal = options.string("key", errors);
        let literal = literal.required(
            errors,
            &at,
            "missing `key`; add `key = \"order.v1.submit\"`",
        );
        let key = literal.and_then(|literal| self.fields.checked_key(literal, errors));
        let exchange = self.exchange_of(&mut options, &at, errors);
        let (method, exchange, key) = (method?, exchange?, key?);
        let name = method.unraw().to_string();
        self.refuse_known_key(&exchange, &name, &key, errors);
        Some(Route {
            exchange,
            name,
            key,
        })
    }

    /// The method of an event, named by a literal.
    fn method(&mut self, name: &LitStr, errors: &mut Errors) -> Option<Ident> {
        let text = name.value();
        if let Some(mistake) = method_mistake(&text) {
            errors.at(name, mistake);
            return None;
        }
        if self.methods.iter().any(|earlier| *earlier == text) {
            errors.at(
                name,
                format!("two events are named `{text}`; the name is that of a method"),
            );
            return None;
        }
        let method = Ident::new(&text, name.span());
        self.methods.push(method.clone());
        Some(method)
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
        name: &str,
        key: &RouteKey,
        errors: &mut Errors,
    ) {
        let (exchange, pattern) = (exchange.value(), key.key.pattern());
        match self
            .seen
            .iter()
            .find(|(e, p, _)| *e == exchange && *p == pattern)
        {
            Some((.., earlier)) => {
                errors.at(
                    &key.literal,
                    format!("`{earlier}` has this key already; give each event its own"),
                );
            }
            None => self.seen.push((exchange, pattern, name.to_owned())),
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

/// The fields of the struct itself.
struct OwnFields<'a> {
    fields: &'a Fields,
    ident: &'a Ident,
}

impl<'a> OwnFields<'a> {
    fn new(fields: &'a Fields, ident: &'a Ident) -> Self {
        Self { fields, ident }
    }

    fn all(&self) -> impl Iterator<Item = (Member, &'a syn::Field)> {
        self.fields.members().zip(self.fields)
    }

    fn checked_key(&self, literal: LitStr, errors: &mut Errors) -> Option<RouteKey> {
        checked_key(literal, errors, |name, literal, errors| {
            let found = self.all().find(|(member, _)| text(member) == name);
            if found.is_none() {
                errors.at(literal, self.no_field(name));
            }
            let (mut member, field) = found?;
            match &mut member {
                Member::Named(ident) => ident.set_span(literal.span()),
                Member::Unnamed(Index { span, .. }) => *span = literal.span(),
            }
            Some(Shown {
                member,
                ty: Some(field.ty.clone()),
            })
        })
    }

    fn no_field(&self, name: &str) -> String {
        let known: Vec<String> = self
            .fields
            .members()
            .map(|member| format!("`{}`", text(&member)))
            .collect();
        let known = if known.is_empty() {
            "it has none".to_owned()
        } else {
            format!("it has {}", known.join(", "))
        };
        format!("`{}` has no field `{name}` to fill in; {known}", self.ident)
    }

    fn partition_key(&self, errors: &mut Errors) -> Option<Shown> {
        let mut key: Option<Shown> = None;
        for (member, field) in self.all() {
            let attrs = Attr::read_all(&field.attrs, errors);
            let Some(word) =
                Options::collect(attrs, Place::Field, errors).flag("partition_key", errors)
            else {
                continue;
            };
            if let Some(earlier) = &key {
                let earlier = text(&earlier.member);
                errors.at(
                    word,
                    format!("`{earlier}` is the partition key already; an event has at most one"),
                );
            } else {
                let member = match member {
                    Member::Unnamed(index) => Member::Unnamed(Index {
                        span: field.ty.span(),
                        ..index
                    }),
                    named @ Member::Named(_) => named,
                };
                key = Some(Shown {
                    member,
                    ty: Some(field.ty.clone()),
                });
            }
        }
        key
    }

    fn only(&self) -> Option<Field> {
        let mut all = self.all();
        let (member, field) = all.next()?;
        all.next().is_none().then(|| Field {
            member,
            ty: field.ty.clone(),
        })
    }
}

/// A field's name as a template has it.
fn text(member: &Member) -> String {
    match member {
        Member::Named(ident) => ident.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}
