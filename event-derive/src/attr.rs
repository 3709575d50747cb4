//! Reads `#[event(…)]` into options, whatever they mean and wherever they stand.

use proc_macro2::TokenStream;
use syn::{
    Attribute, Ident, Lit, Meta, Result, Token, Type,
    ext::IdentExt,
    parenthesized,
    parse::{Parse, ParseStream},
    token::Paren,
};

use crate::errors::Errors;

/// One `#[event(…)]`.
pub(crate) struct Attr {
    pub(crate) options: Vec<Opt>,
    /// Something in it could not be read and was reported, so nothing is known to be missing.
    pub(crate) broken: bool,
}

/// One option as written.
pub(crate) struct Opt {
    pub(crate) name: Ident,
    pub(crate) value: Value,
}

/// What an option is set to.
pub(crate) enum Value {
    /// `validate`
    None,
    /// `key = "order.v1.submit"`
    Literal(Lit),
    /// `codec = Json`
    Type(Type),
    /// `upcasts(OrderV1)`
    List(Paren, TokenStream),
}

impl Attr {
    /// The `#[event(…)]` among these attributes.
    pub(crate) fn read_all(attributes: &[Attribute], errors: &mut Errors) -> Vec<Self> {
        let ours = attributes
            .iter()
            .filter(|attribute| attribute.path().is_ident("event"));
        ours.map(|attribute| Self::read(attribute, errors))
            .collect()
    }

    fn read(attribute: &Attribute, errors: &mut Errors) -> Self {
        let mut read = Self {
            options: Vec::new(),
            broken: false,
        };
        let parsed = match &attribute.meta {
            Meta::List(list) if list.tokens.is_empty() => Err(syn::Error::new_spanned(
                attribute,
                "empty `#[event()]`; write options between the parentheses",
            )),
            Meta::List(list) => {
                list.parse_args_with(|input: ParseStream<'_>| read.add_options(input))
            }
            meta => Err(syn::Error::new_spanned(
                meta,
                "write the options in parentheses: `#[event(…)]`",
            )),
        };
        if let Err(error) = parsed {
            errors.push(error);
            read.broken = true;
        }
        read
    }

    /// Stands for attributes that are missing, which was reported as a whole.
    pub(crate) fn missing() -> Self {
        Self {
            options: Vec::new(),
            broken: true,
        }
    }

    /// Keeps the options before a mistake, unlike a `Punctuated`.
    fn add_options(&mut self, input: ParseStream<'_>) -> Result<()> {
        while !input.is_empty() {
            self.options.push(input.parse()?);
            if !input.is_empty() {
                input.parse::<Token![,]>().map_err(|error| {
                    syn::Error::new(error.span(), "expected `,` between options")
                })?;
            }
        }
        Ok(())
    }

    /// Whether it has an option of this name.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.options.iter().any(|option| option.name == name)
    }
}

impl Parse for Opt {
    fn parse(input: ParseStream<'_>) -> Result<Self> {
        // Any, because `crate` is a keyword.
        let Ok(name) = input.call(Ident::parse_any) else {
            return Err(input.error("expected an option, such as `key = \"order.v1.submit\"`"));
        };
        let value = if input.peek(Token![=]) {
            input.parse::<Token![=]>()?;
            if input.is_empty() || input.peek(Token![,]) {
                return Err(syn::Error::new(
                    name.span(),
                    format!("`{name}` has no value after `=`"),
                ));
            }
            if input.peek(Lit) {
                Value::Literal(input.parse()?)
            } else {
                Value::Type(input.parse()?)
            }
        } else if input.peek(Paren) {
            let list;
            Value::List(parenthesized!(list in input), list.parse()?)
        } else {
            Value::None
        };
        Ok(Self { name, value })
    }
}
