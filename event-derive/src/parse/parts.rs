//! The parts that structs and enums share: exchanges, keys, names, payloads.

use syn::{Ident, LitStr, Type, ext::IdentExt};

use crate::{
    errors::Errors,
    key::{Key, Word, exchange_mistake},
    model::{Codec, Payload, Piece, RouteKey, Shown},
    options::{Given, Options},
};

/// An exchange whose name is legal.
pub(super) fn checked_exchange(given: Given<LitStr>, errors: &mut Errors) -> Given<LitStr> {
    let Given::Yes(literal) = given else {
        return given;
    };
    match exchange_mistake(&literal.value()) {
        None => Given::Yes(literal),
        Some(mistake) => {
            errors.at(literal, mistake);
            Given::Wrong
        }
    }
}

/// A key whose words are legal; `field` finds the field of a name, or reports that there is none.
pub(super) fn checked_key(
    literal: LitStr,
    errors: &mut Errors,
    mut field: impl FnMut(&str, &LitStr, &mut Errors) -> Option<Shown>,
) -> Option<RouteKey> {
    match Key::parse(&literal.value()) {
        Ok(key) => {
            let pieces = key.pieces().into_iter().map(|piece| match piece {
                Word::Text(text) => Some(Piece::Text(text)),
                Word::Field(name) => {
                    field(&name, &literal, errors).map(|shown| Piece::Field(name, shown))
                }
            });
            // All of them before looking at any, so that each unknown field is reported.
            let pieces: Vec<_> = pieces.collect();
            let pieces = pieces.into_iter().collect::<Option<_>>()?;
            Some(RouteKey {
                literal,
                key,
                pieces,
            })
        }
        Err(mistakes) => {
            for mistake in mistakes {
                errors.at(&literal, mistake);
            }
            None
        }
    }
}

/// What a route is called in `ROUTES`, where that is free: by default as the type or the variant.
pub(super) fn event_name(options: &mut Options, default: &Ident, errors: &mut Errors) -> LitStr {
    let default = LitStr::new(&default.unraw().to_string(), default.span());
    let name = options.string("name", errors).value().unwrap_or(default);
    if name.value().trim().is_empty() {
        errors.at(&name, "name is empty; write one, or leave the option out");
    }
    name
}

/// The codec and what belongs to it.
pub(super) struct PayloadOptions {
    codec: Option<Codec>,
    content_type: Option<LitStr>,
    validate: Option<Ident>,
}

impl PayloadOptions {
    pub(super) fn take(options: &mut Options, errors: &mut Errors) -> Self {
        let content_type = options.string("content_type", errors).value();
        if let Some(literal) = &content_type {
            check_content_type(literal, errors);
        }
        Self {
            codec: options.a_type("codec", errors).map(codec),
            content_type,
            validate: options.flag("validate", errors),
        }
    }

    /// The payload of a struct. Without `codec` it is JSON, and what is wrong with that shows at the type.
    pub(super) fn for_type(self, ident: &Ident) -> Payload {
        let codec = self
            .codec
            .unwrap_or_else(|| Codec::Ours(Ident::new("Json", ident.span())));
        Payload {
            codec,
            content_type: self.content_type,
            validate: self.validate,
        }
    }

    /// The payload of a variant: what it says itself, then what its enum says.
    pub(super) fn for_variant(self, shared: &Self, span: proc_macro2::Span) -> Payload {
        // A content type belongs to a codec: one that the variant chose is not described by the enum's.
        let content_type = self
            .content_type
            .or_else(|| shared.content_type.clone().filter(|_| self.codec.is_none()));
        let codec = self.codec.or_else(|| shared.codec.clone());
        Payload {
            codec: codec.unwrap_or_else(|| Codec::Ours(Ident::new("Json", span))),
            content_type,
            validate: self.validate.or_else(|| shared.validate.clone()),
        }
    }
}

/// A bare name of ours is ours, so that nobody has to import it.
fn codec(ty: Type) -> Codec {
    if let Type::Path(found) = &ty
        && found.qself.is_none()
        && let Some(ident) = found.path.get_ident()
        && ["Json", "MessagePack", "Cbor", "Raw"]
            .iter()
            .any(|ours| ident == ours)
    {
        return Codec::Ours(ident.clone());
    }
    Codec::Given(ty)
}

fn check_content_type(literal: &LitStr, errors: &mut Errors) {
    let text = literal.value();
    let essence = text.split(';').next().unwrap_or_default().trim();
    let halves = essence.split_once('/');
    let legal =
        |half: &str| !half.is_empty() && half.bytes().all(|b| b.is_ascii_graphic() && b != b'/');
    if !halves.is_some_and(|(kind, of)| legal(kind) && legal(of))
        || text.chars().any(char::is_control)
    {
        let shown = text.escape_debug();
        errors.at(
            literal,
            format!("`{shown}` is not a media type; write `application/vnd.shop.order+json`"),
        );
    }
}
