//! Which options there are, where each may stand, and what value it takes.

use std::fmt::Display;

use proc_macro2::TokenStream;
use quote::{ToTokens, quote};
use syn::{Ident, Lit, LitStr, Path, Token, Type, parse::Parser, punctuated::Punctuated};

use crate::{
    attr::{Attr, Opt, Value},
    errors::Errors,
};

/// Where an attribute stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// On a struct: what its only event is, or what all of them share.
    Struct,
    /// On a struct: one of several events.
    Event,
    /// On an enum.
    Enum,
    /// On a variant.
    Variant,
    /// On a field of a struct.
    Field,
    /// On the value in a variant.
    Value,
}

impl Place {
    fn options(self) -> &'static [&'static str] {
        match self {
            Self::Struct => &[
                "exchange",
                "key",
                "name",
                "codec",
                "content_type",
                "validate",
                "upcasts",
                "crate",
            ],
            Self::Event => &["name", "key", "exchange"],
            Self::Enum => &["exchange", "codec", "content_type", "validate", "crate"],
            Self::Variant => &[
                "key",
                "name",
                "codec",
                "content_type",
                "validate",
                "partition_key",
                "other",
            ],
            Self::Field => &["partition_key"],
            Self::Value => &[],
        }
    }

    /// Where an option goes that exists and has no meaning here.
    fn elsewhere(self, name: &str) -> Option<&'static str> {
        Some(match (self, name) {
            (Self::Struct | Self::Event, "partition_key") => {
                "goes on a field: `#[event(partition_key)] id: u64`"
            }
            (Self::Struct | Self::Event | Self::Field, "other") => "goes on a variant of an enum",
            (Self::Event, "codec" | "content_type" | "validate" | "upcasts" | "crate") => {
                "is shared by all events of the type; write it in an attribute without `name`, beside `exchange`"
            }
            (Self::Enum, "key" | "name" | "partition_key" | "other") => "goes on a variant",
            (Self::Enum | Self::Variant, "upcasts") => {
                "goes on a struct; an enum reads an older key as a variant of its own"
            }
            (Self::Variant, "exchange" | "crate") => {
                "goes on the enum; all of its variants share it"
            }
            (Self::Field, name) if Self::Struct.options().contains(&name) => "goes on the type",
            (Self::Value, name) if Self::Variant.options().contains(&name) => {
                "goes on the variant, before its name"
            }
            _ => return None,
        })
    }
}

/// An option with its value, for messages.
fn example(option: &str) -> &str {
    match option {
        "exchange" => "exchange = \"order\"",
        "key" => "key = \"order.v1.submit\"",
        "name" => "name = \"submit\"",
        "codec" => "codec = Json",
        "content_type" => "content_type = \"application/vnd.shop.order+json\"",
        "upcasts" => "upcasts(OrderV1)",
        "partition_key" => "partition_key = \"id\"",
        "crate" => "crate = \"switchboard\"",
        flag => flag,
    }
}

/// The options of one place, checked by name; their values are checked when they are taken.
pub(crate) struct Options {
    found: Vec<Opt>,
    /// Options that a mistake reported before was probably meant to be.
    meant: Vec<&'static str>,
    broken: bool,
}

/// The value of an option.
pub(crate) enum Given<T> {
    /// It is not there.
    No,
    /// It is there, or was meant to be, and its mistake is reported.
    Wrong,
    /// It is there.
    Yes(T),
}

impl<T> Given<T> {
    /// The value; a missing one is reported.
    pub(crate) fn required(
        self,
        errors: &mut Errors,
        at: impl ToTokens,
        message: impl Display,
    ) -> Option<T> {
        if let Self::No = self {
            errors.at(at, message);
        }
        self.value()
    }

    /// The value.
    pub(crate) fn value(self) -> Option<T> {
        match self {
            Self::Yes(value) => Some(value),
            Self::No | Self::Wrong => None,
        }
    }
}

impl Options {
    /// Puts the attributes of a place together. Reports what is unknown, misplaced or given twice.
    pub(crate) fn collect(attrs: Vec<Attr>, place: Place, errors: &mut Errors) -> Self {
        let mut options = Self {
            found: Vec::new(),
            meant: Vec::new(),
            broken: false,
        };
        for attr in attrs {
            options.broken |= attr.broken;
            for option in attr.options {
                options.add(option, place, errors);
            }
        }
        options
    }

    fn add(&mut self, option: Opt, place: Place, errors: &mut Errors) {
        let name = option.name.to_string();
        if self.found.iter().any(|earlier| earlier.name == name) {
            errors.at(option.name, format!("`{name}` is given twice; keep one"));
        } else if place.options().contains(&&*name) {
            self.found.push(option);
        } else if let Some(text) = place.elsewhere(&name) {
            errors.at(option.name, format!("`{name}` {text}"));
        } else {
            let meant = nearest(&name, place.options());
            self.meant.extend(meant);
            errors.at(option.name, unknown(&name, place, meant));
        }
    }

    /// Reports every option that is left.
    pub(crate) fn refuse_rest(self, message: &str, errors: &mut Errors) {
        for option in self.found {
            errors.at(option.name, message);
        }
    }

    fn take(&mut self, name: &str) -> Given<Opt> {
        match self.found.iter().position(|option| option.name == name) {
            Some(at) => Given::Yes(self.found.remove(at)),
            None if self.broken || self.meant.contains(&name) => Given::Wrong,
            None => Given::No,
        }
    }

    /// The value of an option as `read` understands it, or a mistake that says what the option takes.
    fn take_as<T>(
        &mut self,
        name: &str,
        takes: &str,
        errors: &mut Errors,
        read: impl FnOnce(&Opt) -> Option<T>,
    ) -> Given<T> {
        let option = match self.take(name) {
            Given::No => return Given::No,
            Given::Wrong => return Given::Wrong,
            Given::Yes(option) => option,
        };
        let value = read(&option);
        if value.is_none() {
            errors.at(&option, format!("`{name}` takes {takes}"));
        }
        value.map_or(Given::Wrong, Given::Yes)
    }

    /// `key = "…"`
    pub(crate) fn string(&mut self, name: &str, errors: &mut Errors) -> Given<LitStr> {
        self.take_as(
            name,
            &format!("a string: `{}`", example(name)),
            errors,
            |option| match &option.value {
                Value::Literal(Lit::Str(text)) => Some(text.clone()),
                _ => None,
            },
        )
    }

    /// `validate`: the word itself, for its span.
    pub(crate) fn flag(&mut self, name: &str, errors: &mut Errors) -> Option<Ident> {
        let Given::Yes(option) = self.take(name) else {
            return None;
        };
        if !matches!(option.value, Value::None) {
            let message = format!("`{name}` takes no value; write the word alone");
            errors.at(&option, message);
        }
        Some(option.name)
    }

    /// `codec = Json`
    pub(crate) fn a_type(&mut self, name: &str, errors: &mut Errors) -> Option<Type> {
        let found = self.take_as(
            name,
            &format!("a type, without quotes: `{}`", example(name)),
            errors,
            |option| match &option.value {
                Value::Type(found) => Some(found.clone()),
                _ => None,
            },
        );
        found.value()
    }

    /// `upcasts(OrderV1, OrderV2)`
    pub(crate) fn types(&mut self, name: &str, errors: &mut Errors) -> Vec<Type> {
        let found = self.take_as(
            name,
            &format!("types in parentheses: `{}`", example(name)),
            errors,
            |option| match &option.value {
                Value::List(_, list) => {
                    let types = Punctuated::<Type, Token![,]>::parse_terminated
                        .parse2(list.clone())
                        .ok()?;
                    (!types.is_empty()).then(|| types.into_iter().collect())
                }
                _ => None,
            },
        );
        found.value().unwrap_or_default()
    }

    /// `crate = "event_core"`, or without quotes.
    pub(crate) fn path(&mut self, name: &str, errors: &mut Errors) -> Option<Path> {
        let found = self.take_as(
            name,
            &format!("a path: `{}`", example(name)),
            errors,
            |option| match &option.value {
                Value::Literal(Lit::Str(text)) => text.parse_with(Path::parse_mod_style).ok(),
                Value::Type(Type::Path(found)) if found.qself.is_none() => Some(found.path.clone()),
                _ => None,
            },
        );
        found.value()
    }
}

/// Where a wrong value is shown: at the value, or at the name of an option without one.
impl ToTokens for Opt {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        match &self.value {
            Value::None => self.name.to_tokens(tokens),
            Value::Literal(value) => value.to_tokens(tokens),
            Value::Type(value) => value.to_tokens(tokens),
            Value::List(parentheses, list) => {
                parentheses.surround(tokens, |inside| inside.extend(quote!(#list)))
            }
        }
    }
}

fn unknown(name: &str, place: Place, meant: Option<&str>) -> String {
    if place == Place::Value {
        return format!("unknown option `{name}`; the value of a variant has none");
    }
    let known: Vec<String> = place
        .options()
        .iter()
        .map(|option| format!("`{option}`"))
        .collect();
    let hint = meant
        .map(|option| format!(" (did you mean `{option}`?)"))
        .unwrap_or_default();
    format!(
        "unknown option `{name}`{hint}; known here: {}",
        known.join(", ")
    )
}

/// The option that differs from a name by a slip of the finger or two.
fn nearest(name: &str, options: &[&'static str]) -> Option<&'static str> {
    let slips = |option: &str| match sorted(name) == sorted(option) {
        true => 1,
        false => distance(name, option),
    };
    let nearest = options.iter().map(|option| (slips(option), *option)).min();
    let (slips, option) = nearest?;
    (slips <= option.len() / 3).then_some(option)
}

/// Its letters, for what has the right ones in a wrong order.
fn sorted(name: &str) -> Vec<u8> {
    let mut letters = name.as_bytes().to_vec();
    letters.sort_unstable();
    letters
}

/// How many letters have to be added, removed or exchanged (Levenshtein).
fn distance(from: &str, to: &str) -> usize {
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.bytes().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, b) in to.bytes().enumerate() {
            let replaced = diagonal + usize::from(a != b);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        let options = Place::Struct.options();
        assert_eq!(nearest("exchnage", options), Some("exchange"));
        assert_eq!(nearest("kye", options), Some("key"));
        assert_eq!(nearest("keys", options), Some("key"));
        assert_eq!(nearest("content-type", options), Some("content_type"));
        assert_eq!(nearest("queue", options), None);
    }
}
