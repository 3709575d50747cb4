//! Structs of every kind, parameters of every kind but lifetimes, and names that hide those of the prelude.

#![no_implicit_prelude]
#![forbid(unsafe_code)]
#![deny(missing_docs, unreachable_pub, warnings)]

use ::serde::{Deserialize, Serialize};
use ::switchboard::Event as _;

/// Hides the prelude's.
pub type Result = ();
/// Hides the prelude's.
pub struct Option;
/// Hides the prelude's.
pub struct String;
/// Hides the prelude's.
pub struct Vec;
/// Hides the trait of the derive.
pub trait Event {}

/// Named fields.
#[derive(Serialize, Deserialize, ::switchboard::Event)]
#[event(exchange = "order", key = "order.{id}.submit", upcasts(Tuple))]
pub struct Named {
    /// The field.
    #[event(partition_key)]
    pub id: u64,
}

impl ::core::convert::From<Tuple> for Named {
    fn from(Tuple(id): Tuple) -> Self {
        Self { id }
    }
}

/// Unnamed fields.
#[derive(Serialize, Deserialize, ::switchboard::Event)]
#[event(exchange = "order", key = "order.v1.tuple")]
pub struct Tuple(#[event(partition_key)] u64);

/// No fields.
#[derive(Serialize, Deserialize, ::switchboard::Event)]
#[event(exchange = "order")]
#[event(name = "submit", key = "order.v1.submit")]
#[event(name = "refuse", key = "order.v1.refuse")]
pub struct Unit;

/// Types and constants.
#[derive(Serialize, Deserialize, ::switchboard::Event)]
#[event(exchange = "order", key = "order.{value}.generic")]
pub struct Generic<T: ::core::clone::Clone = u8, const N: usize = 2>
where
    T: ::core::fmt::Debug,
{
    value: T,
}

/// A crate-wide one that nobody publishes.
#[derive(Serialize, Deserialize, ::switchboard::Event)]
#[event(exchange = "order", key = "order.v1.internal")]
pub(crate) struct Internal;

/// All of them.
#[derive(::switchboard::Event)]
#[event(exchange = "order")]
pub enum Everything<T: ::core::clone::Clone> {
    /// Named.
    #[event(key = "order.{id}.named", partition_key = "id")]
    Named(Named),
    /// Generic.
    #[event(key = "order.v1.generic")]
    Generic(::std::boxed::Box<T>),
    /// Other.
    #[event(other)]
    Other(::switchboard::RawEvent),
}

fn main() {
    ::core::assert_eq!(Generic::<u8>::ROUTES[0].type_name, "Generic<T, N>");
    ::core::assert_eq!(Internal::ROUTES.len(), 1);
}
