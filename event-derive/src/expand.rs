//! From a `model` to code. Nothing here can fail.
//!
//! What is written names `__private` of the facade, `::core` and `::std` by their full paths only, so it
//! does not matter what else is called `Result` where the type stands.

mod bounds;
mod enums;
mod private;
mod structs;
mod stub;

use proc_macro2::TokenStream;
use quote::quote;
use syn::Ident;

pub(crate) use self::stub::stub;
use self::{bounds::Bounds, private::Private};
use crate::model::{Event, Outline};

/// Everything that the derive implements for a type.
pub(crate) fn event(outline: &Outline, event: &Event) -> TokenStream {
    let private = Private::new(outline);
    match event {
        Event::Struct(model) => structs::expand(outline, model, &private),
        Event::Enum(model) => enums::expand(outline, model, &private),
    }
}

/// A type that publishes as itself: `Publish`, which makes an `Outgoing` by `outgoing`, and what follows.
fn publish_impls(
    outline: &Outline,
    private: &Private,
    bounds: &Bounds<'_>,
    doc: &str,
    outgoing: &TokenStream,
) -> TokenStream {
    let Outline { ident, vis, .. } = outline;
    let (impl_generics, ty_generics, publish_where) = bounds.split();
    let mut bounds = Bounds::new(outline);
    let (.., where_clause) = bounds.need(quote!(Self: #private::Publish)).split();
    let method = private.method(vis, &Ident::new("publish", ident.span()));
    quote! {
        #[automatically_derived]
        #[allow(deprecated)]
        impl #impl_generics #private::Publish for #ident #ty_generics #publish_where {
            fn outgoing(&self) -> #private::Result<#private::Outgoing> {
                #outgoing
            }
        }

        #[automatically_derived]
        #[allow(deprecated)]
        impl #impl_generics #private::IntoOutgoing for #ident #ty_generics #where_clause {
            fn into_outgoing(self) -> #private::Result<#private::Outgoing> {
                #private::Publish::outgoing(&self)
            }
        }

        #[automatically_derived]
        #[allow(deprecated)]
        impl #impl_generics #ident #ty_generics #where_clause {
            #[doc = #doc]
            #[allow(dead_code)]
            #method {
                bus.publish(self)
            }
        }
    }
}
