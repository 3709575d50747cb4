//! `#[derive(Event)]` of Switchboard.
//!
//! Applications use it through the facade, `switchboard`; the guide's page on events shows everything that
//! it understands. Inside: `parse` holds every rule and every span and makes a `model`, from which `expand`
//! writes the code. Expanding cannot fail.

mod attr;
mod errors;
mod expand;
mod key;
mod model;
mod options;
mod parse;
mod place;
mod type_name;

use proc_macro::TokenStream;
use syn::{DeriveInput, parse_macro_input};

/// Says what an event is and where it goes.
///
/// ```text
/// #[derive(Serialize, Deserialize, Event)]
/// #[event(exchange = "order", key = "order.v1.submit")]
/// struct OrderSubmitted {
///     #[event(partition_key)]
///     id: u64,
/// }
/// ```
///
/// Options of a struct: `exchange`, `key`, `name`, `codec`, `content_type`, `validate`, `upcasts(…)`, `crate`.
/// Several `#[event(name = "…", key = "…")]` give one struct several events. An enum has `exchange` and, on
/// each variant, `key`, or `other` on one that holds a `RawEvent`. A field has `partition_key`.
///
/// The guide's page on events explains each of them.
#[proc_macro_derive(Event, attributes(event))]
pub fn derive_event(input: TokenStream) -> TokenStream {
    let input = parse_macro_input!(input as DeriveInput);
    let (outline, event) = parse::parse(&input);
    match event {
        Ok(event) => expand::event(&outline, &event),
        // The traits are implemented all the same, or each use of the type would be one more error.
        Err(errors) => {
            let stub = expand::stub(&outline);
            quote::quote!(#errors #stub)
        }
    }
    .into()
}
