//! The options of one place, taken one by one.

use std::fmt::Display;

use proc_macro2::TokenStream;
use quote::ToTokens;
use syn::{Ident, Lit, LitStr, Path, Token, Type, parse::Parser, punctuated::Punctuated};

use crate::{
    attr::{Attr, Opt, Value},
    errors::Errors,
    place::{Place, example},
};

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
        } else if place.has(&name) {
            self.found.push(option);
        } else {
            errors.at(option.name, place.refusal(&name));
            self.meant.extend(place.nearest(&name));
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
                parentheses.surround(tokens, |inside| inside.extend(list.clone()));
            }
        }
    }
}
