//! All rules and all spans: from what the user wrote to a `model`, or to every mistake in it.

mod enums;
mod fields;
mod parts;
mod several;
mod structs;

use syn::{Data, DeriveInput, GenericParam, parse_quote};

use crate::{
    attr::Attr,
    errors::Errors,
    model::{Event, Methods, Outline},
    options::Options,
    place::Place,
};

/// Everything the derive needs to know. The outline is there whatever else is wrong.
pub(crate) fn parse(input: &DeriveInput) -> (Outline, Result<Event, Errors>) {
    let mut errors = Errors::default();
    refuse_lifetimes(input, &mut errors);
    let mut outline = Outline {
        vis: input.vis.clone(),
        ident: input.ident.clone(),
        generics: input.generics.clone(),
        krate: parse_quote!(::switchboard),
        methods: Methods::Publish,
    };
    let attrs = attributes(input, &mut errors);
    let event = match &input.data {
        Data::Struct(data) => {
            structs::parse(&data.fields, attrs, &mut outline, &mut errors).map(Event::Struct)
        }
        Data::Enum(data) => enums::parse(data, attrs, &mut outline, &mut errors).map(Event::Enum),
        Data::Union(data) => {
            errors.at(
                data.union_token,
                "an event is a struct or an enum; a union has no form on the wire",
            );
            None
        }
    };
    (outline, errors.unless_any(event))
}

fn refuse_lifetimes(input: &DeriveInput, errors: &mut Errors) {
    for param in &input.generics.params {
        if let GenericParam::Lifetime(param) = param {
            let message = format!(
                "an event owns its data, so `{}` has no lifetime `{}`; use `String` for `&str`, `Vec<T>` for `&[T]`",
                input.ident, param.lifetime
            );
            errors.at(&param.lifetime, message);
        }
    }
}

/// The attributes on the type itself. Without any, one mistake stands for all that is missing.
fn attributes(input: &DeriveInput, errors: &mut Errors) -> Vec<Attr> {
    let attrs = Attr::read_all(&input.attrs, errors);
    let example = match &input.data {
        Data::Struct(_) => "exchange = \"order\", key = \"order.v1.submit\"",
        Data::Enum(_) => "exchange = \"order\"",
        Data::Union(_) => return attrs,
    };
    if attrs.is_empty() {
        let message = format!("an event says where it goes; add `#[event({example})]`");
        errors.at(&input.ident, message);
        return vec![Attr::missing()];
    }
    attrs
}

/// The options on the type itself, with the crate put into the outline.
fn type_options(
    attrs: Vec<Attr>,
    place: Place,
    outline: &mut Outline,
    errors: &mut Errors,
) -> Options {
    let mut options = Options::collect(attrs, place, errors);
    if let Some(path) = options.path("crate", errors) {
        outline.krate = path;
    }
    options
}
