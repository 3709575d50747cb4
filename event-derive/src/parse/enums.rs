//! Enums: one event for each variant.

use syn::{DataEnum, Ident, Index, LitStr, Member, spanned::Spanned};

use super::{
    parts::{PayloadOptions, checked_exchange, checked_key, event_name},
    type_options,
};
use crate::{
    attr::Attr,
    errors::Errors,
    model::{Content, Enum, Field, Outline, Shown, Variant},
    options::Options,
    place::Place,
};

pub(super) fn parse(
    data: &DataEnum,
    attrs: Vec<Attr>,
    outline: &mut Outline,
    errors: &mut Errors,
) -> Option<Enum> {
    let mut options = type_options(attrs, Place::Enum, outline, errors);
    let exchange = checked_exchange(options.string("exchange", errors), errors);
    let exchange = exchange.required(
        errors,
        &outline.ident,
        "missing `exchange`; add `#[event(exchange = \"order\")]`",
    );
    if data.variants.is_empty() {
        let message = "an event has at least one variant: `#[event(key = \"order.v1.submit\")] Submitted(Order)`";
        errors.at(&outline.ident, message);
    }
    let shared = PayloadOptions::take(&mut options, errors);
    let variants: Vec<_> = data
        .variants
        .iter()
        .map(|variant| parse_variant(variant, &shared, errors))
        .collect();
    refuse_repetitions(variants.iter().flatten(), errors);
    Some(Enum {
        exchange: exchange?,
        variants: variants.into_iter().collect::<Option<_>>()?,
    })
}

fn parse_variant(
    variant: &syn::Variant,
    shared: &PayloadOptions,
    errors: &mut Errors,
) -> Option<Variant> {
    let ident = &variant.ident;
    let value = only_value(variant, errors);
    let attrs = Attr::read_all(&variant.attrs, errors);
    if attrs.is_empty() {
        let message = format!(
            "`{ident}` has no key; add `#[event(key = \"order.v1.submit\")]`, or `#[event(other)]`"
        );
        errors.at(ident, message);
        return None;
    }
    let mut options = Options::collect(attrs, Place::Variant, errors);
    let name = event_name(&mut options, ident, errors);
    let content = if options.flag("other", errors).is_some() {
        options.refuse_rest(
            "`other` takes every key and keeps the bytes; all it can have is a `name`",
            errors,
        );
        Some(Content::Other)
    } else {
        known(options, shared, ident, value.as_ref(), errors)
    };
    Some(Variant {
        ident: ident.clone(),
        name,
        value: value?,
        content: content?,
    })
}

fn known(
    mut options: Options,
    shared: &PayloadOptions,
    ident: &Ident,
    value: Option<&Field>,
    errors: &mut Errors,
) -> Option<Content> {
    let key = options.string("key", errors);
    let key = key.required(
        errors,
        ident,
        "missing `key`; add `#[event(key = \"order.v1.submit\")]`",
    );
    let key = key.and_then(|literal| {
        checked_key(literal, errors, |name, literal, _| {
            Some(named(name, literal))
        })
    });
    let partition_key = options.string("partition_key", errors).value();
    let partition_key = partition_key.and_then(|literal| field_of_value(&literal, errors));
    // What is wrong with JSON, which nobody wrote, shows at the value's type.
    let span = value.map_or(ident.span(), |value| value.ty.span());
    let payload = PayloadOptions::take(&mut options, errors).for_variant(shared, span);
    Some(Content::Known {
        key: key?,
        payload,
        partition_key,
    })
}

/// The value of a variant. A name is no obstacle; another number than one is.
fn only_value(variant: &syn::Variant, errors: &mut Errors) -> Option<Field> {
    for field in &variant.fields {
        let attrs = Attr::read_all(&field.attrs, errors);
        Options::collect(attrs, Place::Value, errors);
    }
    let mut fields = variant.fields.members().zip(&variant.fields);
    if let (Some((member, field)), None) = (fields.next(), fields.next()) {
        return Some(Field {
            member,
            ty: field.ty.clone(),
        });
    }
    let ident = &variant.ident;
    let message = format!("a variant holds exactly one value, its payload: `{ident}(Order)`");
    match variant.fields.len() {
        0 => errors.at(ident, message),
        _ => errors.at(&variant.fields, message),
    }
    None
}

/// `partition_key = "id"`: a field of the value.
fn field_of_value(literal: &LitStr, errors: &mut Errors) -> Option<Shown> {
    let name = literal.value();
    if crate::key::is_field_name(&name) {
        return Some(named(&name, literal));
    }
    let shown = name.escape_debug();
    errors.at(
        literal,
        format!("`{shown}` does not name a field of the value; write `partition_key = \"id\"`"),
    );
    None
}

/// The field of this name, which was checked to be one, in a type that only the compiler knows.
fn named(name: &str, literal: &LitStr) -> Shown {
    let span = literal.span();
    let member = match name.parse() {
        Ok(index) => Member::Unnamed(Index { index, span }),
        Err(_) if syn::parse_str::<Ident>(name).is_ok() => Member::Named(Ident::new(name, span)),
        Err(_) => Member::Named(Ident::new_raw(name, span)),
    };
    Shown { member, ty: None }
}

/// Two variants for one key could not be told apart.
fn refuse_repetitions<'a>(variants: impl Iterator<Item = &'a Variant>, errors: &mut Errors) {
    // `other` is the variant with every key.
    let pattern = |variant: &Variant| match &variant.content {
        Content::Known { key, .. } => key.key.pattern(),
        Content::Other => "#".to_owned(),
    };
    let mut before: Vec<&Variant> = Vec::new();
    for variant in variants {
        if before
            .iter()
            .any(|earlier| earlier.name.value() == variant.name.value())
        {
            let message = format!("two variants are named `{}`", variant.name.value());
            errors.at(&variant.name, message);
        }
        let same = before
            .iter()
            .find(|earlier| pattern(earlier) == pattern(variant));
        match (same, &variant.content) {
            (None, _) => {}
            (Some(Variant { ident, .. }), Content::Known { key, .. }) => {
                let message = format!("`{ident}` has this key already; give each variant its own");
                errors.at(&key.literal, message);
            }
            (Some(Variant { ident, .. }), Content::Other) => {
                let message = format!("`{ident}` takes what the enum does not know already");
                errors.at(&variant.ident, message);
            }
        }
        before.push(variant);
    }
}
