//! What an event is, after all rules are kept: what `parse` makes and
//! `expand` writes out.

#![allow(
    clippy::large_enum_variant,
    reason = "one model for each derive; a box would only be in the way"
)]

use syn::{Generics, Ident, LitStr, Member, Path, Type, Visibility};

use crate::key::Key;

/// What is known of a type whatever else is wrong with it: enough to implement the traits in name.
pub(crate) struct Outline {
    pub(crate) vis: Visibility,
    pub(crate) ident: Ident,
    pub(crate) generics: Generics,
    /// The crate that has `__private`.
    pub(crate) krate: Path,
    pub(crate) methods: Methods,
}

/// What the type publishes with.
pub(crate) enum Methods {
    /// `order.publish(&bus)`
    Publish,
    /// One for each of several events: `order.submit(&bus)`.
    Named(Vec<Ident>),
}

pub(crate) enum Event {
    Struct(Struct),
    Enum(Enum),
}

pub(crate) struct Struct {
    /// One, or one for each of the outline's methods, in their order.
    pub(crate) routes: Vec<Route>,
    pub(crate) payload: Payload,
    pub(crate) partition_key: Option<Shown>,
    pub(crate) upcasts: Vec<Type>,
    /// The only field of a struct with `codec = Raw`: it is the payload.
    pub(crate) raw: Option<Field>,
}

pub(crate) struct Route {
    pub(crate) exchange: LitStr,
    pub(crate) name: LitStr,
    pub(crate) key: RouteKey,
}

pub(crate) struct Enum {
    pub(crate) exchange: LitStr,
    pub(crate) variants: Vec<Variant>,
}

pub(crate) struct Variant {
    pub(crate) ident: Ident,
    /// The event's name.
    pub(crate) name: LitStr,
    /// The one value.
    pub(crate) value: Field,
    pub(crate) content: Content,
}

/// What a variant stands for.
pub(crate) enum Content {
    /// The event with this key.
    Known {
        key: RouteKey,
        payload: Payload,
        partition_key: Option<Shown>,
    },
    /// Whatever the enum does not know.
    Other,
}

/// A field with its type.
pub(crate) struct Field {
    pub(crate) member: Member,
    pub(crate) ty: Type,
}

/// A field whose `Display` becomes a word of a key or the partition key. The span of the member is where
/// the user asked for it.
#[derive(Clone)]
pub(crate) struct Shown {
    pub(crate) member: Member,
    /// Unknown for a field of the value in a variant.
    pub(crate) ty: Option<Type>,
}

/// A key, and the literal that it was written as.
pub(crate) struct RouteKey {
    pub(crate) literal: LitStr,
    pub(crate) key: Key,
    pub(crate) pieces: Vec<Piece>,
}

/// What a key is put together from.
pub(crate) enum Piece {
    /// Words, with their dots.
    Text(String),
    /// A field, and its name in the key.
    Field(String, Shown),
}

/// How a value becomes bytes.
#[derive(Clone)]
pub(crate) struct Payload {
    pub(crate) codec: Codec,
    pub(crate) content_type: Option<LitStr>,
    /// The word `validate`, for its span.
    pub(crate) validate: Option<Ident>,
}

#[derive(Clone)]
pub(crate) enum Codec {
    /// `Json`, `MessagePack`, `Cbor` or `Raw`, by its bare name.
    Ours(Ident),
    /// A type as it was written.
    Given(Type),
}
