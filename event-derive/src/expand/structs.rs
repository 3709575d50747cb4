//! The impls of a struct.

use std::collections::HashSet;

use proc_macro2::TokenStream;
use quote::{quote, quote_spanned};
use syn::{GenericParam, Ident, Type, ext::IdentExt, spanned::Spanned};

use super::{
    bounds::Bounds,
    private::{Private, at},
};
use crate::model::{Field, Methods, Outline, Route, RouteKey, Struct};

pub(super) fn expand(outline: &Outline, model: &Struct, private: &Private) -> TokenStream {
    let struct_ = Expand {
        outline,
        model,
        private,
    };
    let event = struct_.event();
    let encode = struct_.encode();
    let publishing = match &outline.methods {
        Methods::Publish => struct_.publish(),
        Methods::Named(methods) => struct_.several(methods),
    };
    let raw = model.raw.as_ref().map(|field| struct_.raw_payload(field));
    quote!(#event #encode #publishing #raw)
}

struct Expand<'a> {
    outline: &'a Outline,
    model: &'a Struct,
    private: &'a Private,
}

impl Expand<'_> {
    fn event(&self) -> TokenStream {
        let Self {
            outline: Outline { ident, .. },
            model,
            private,
        } = self;
        let this = quote!(Self);
        let mut bounds = Bounds::new(self.outline);
        bounds.event().payload(&model.payload, &this, private);
        for older in &model.upcasts {
            bounds.need(quote!(#older: #private::Event));
        }
        let (impl_generics, ty_generics, where_clause) = bounds.split();
        let type_name = type_name(self.outline);
        let content_type = private.content_type(&model.payload, &this);
        let routes = model.routes.iter().map(
            |Route {
                 exchange,
                 name,
                 key,
             }| { private.route(exchange, name, key, &type_name, &content_type) },
        );
        let older = self.older();
        let from_older = self.decode_older();
        let decode = private.decode(&model.payload, &this);
        quote! {
            #[automatically_derived]
            #[allow(deprecated)]
            impl #impl_generics #private::Event for #ident #ty_generics #where_clause {
                const ROUTES: &'static [#private::RouteInfo] = &[#(#routes),*];
                #older

                fn decode(delivery: &#private::Delivery) -> #private::Result<Self> {
                    #from_older
                    ::core::result::Result::Ok(#decode)
                }
            }
        }
    }

    fn older(&self) -> Option<TokenStream> {
        let Self {
            model: Struct { upcasts, .. },
            private,
            ..
        } = self;
        let older = upcasts.iter().map(|older| {
            let event = self.as_event(older);
            quote!(&#private::Older { routes: #event::ROUTES, older: #event::OLDER })
        });
        let of_type = quote!(&'static [&'static #private::Older]);
        (!upcasts.is_empty()).then(|| quote!(const OLDER: #of_type = &[#(#older),*];))
    }

    /// `<OrderV1 as Event>`, at the type in `upcasts(…)`.
    fn as_event(&self, older: &Type) -> TokenStream {
        let private = at(older.span(), self.private);
        quote_spanned!(older.span()=> <#older as #private::Event>)
    }

    /// Returns what an older type reads, when the address is not one of the type's own.
    fn decode_older(&self) -> Option<TokenStream> {
        let Self {
            outline: Outline { ident, .. },
            model,
            private,
        } = self;
        let own = model
            .routes
            .iter()
            .enumerate()
            .map(|(index, Route { exchange, key, .. })| {
                let literal = &key.literal;
                if key.key.is_constant() {
                    quote!((key == #literal && exchange == #exchange))
                } else {
                    quote!(<Self as #private::Event>::ROUTES[#index].takes(exchange, key))
                }
            });
        let validate = private.validate(&model.payload, &quote!(&value));
        let older = model.upcasts.iter().enumerate().map(|(index, older)| {
            let event = self.as_event(older);
            let from = Ident::new("older", older.span());
            let converted = quote_spanned! {older.span()=>
                <Self as ::core::convert::From<#older>>::from(#from)
            };
            quote! {
                if <Self as #private::Event>::OLDER[#index].takes(exchange, key) {
                    let #from = #event::decode(delivery)?;
                    let value: Self = #converted;
                    #validate
                    return ::core::result::Result::Ok(value);
                }
            }
        });
        let name = ident.unraw().to_string();
        (!model.upcasts.is_empty()).then(|| {
            quote! {
                let message = delivery.message();
                let (exchange, key) = (message.exchange().as_str(), message.key().as_str());
                if !(#(#own)||*) {
                    #(#older)*
                    return ::core::result::Result::Err(#private::not_taken(#name, delivery));
                }
            }
        })
    }

    fn encode(&self) -> TokenStream {
        let Self {
            outline: Outline { ident, .. },
            model,
            private,
        } = self;
        let this = quote!(Self);
        let mut bounds = Bounds::new(self.outline);
        bounds
            .event()
            .payload(&model.payload, &this, private)
            .need(quote!(Self: #private::Event));
        for route in &model.routes {
            bounds.key(&route.key);
        }
        bounds.shown(model.partition_key.as_ref());
        let (impl_generics, ty_generics, where_clause) = bounds.split();
        let value = quote!(self);
        let validate = private.validate(&model.payload, &value);
        let message = self.message_for_route();
        let partition_key = model.partition_key.as_ref();
        let outgoing = private.outgoing(&model.payload, &this, &value, &message, partition_key);
        quote! {
            #[automatically_derived]
            #[allow(deprecated)]
            impl #impl_generics #private::Encode for #ident #ty_generics #where_clause {
                fn encode(&self, route: &'static #private::RouteInfo) -> #private::Result<#private::Outgoing> {
                    #validate
                    #outgoing
                }
            }
        }
    }

    /// The message for `route`, which is one of the type's own.
    fn message_for_route(&self) -> TokenStream {
        let Self {
            model: Struct { routes, .. },
            private,
            ..
        } = self;
        let value = quote!(self);
        if let [only] = &routes[..] {
            return private.message(&only.key, &value);
        }
        // One key may occur on several exchanges.
        let mut seen = HashSet::new();
        let mut is_new =
            |key: &RouteKey| !key.key.is_constant() && seen.insert(key.literal.value());
        let keys = routes.iter().map(|route| &route.key);
        let filled = keys.filter(|key| is_new(key)).map(|key| {
            let (literal, message) = (&key.literal, private.message(key, &value));
            quote!(#literal => #message,)
        });
        quote! {
            match route.key {
                #(#filled)*
                _ => #private::message(route, payload),
            }
        }
    }

    /// The only event: `order.publish(&bus)`.
    fn publish(&self) -> TokenStream {
        let Self { private, .. } = self;
        let outgoing =
            quote!(#private::Encode::encode(self, &<Self as #private::Event>::ROUTES[0]));
        let mut bounds = Bounds::new(self.outline);
        bounds.need(quote!(Self: #private::Encode));
        let Route { exchange, key, .. } = &self.model.routes[0];
        let (exchange, key) = (exchange.value(), key.literal.value());
        let doc =
            format!("Publishes the event to exchange `{exchange}` with key `{key}`; await it.");
        super::publish_impls(self.outline, private, &bounds, &doc, &outgoing)
    }

    /// A constant and a method for each event: `Order::SUBMIT`, `order.submit(&bus)`.
    fn several(&self, methods: &[Ident]) -> TokenStream {
        let Self {
            outline: Outline { ident, vis, .. },
            model,
            private,
        } = self;
        let mut bounds = Bounds::new(self.outline);
        bounds.need(quote!(Self: #private::Encode));
        let (impl_generics, ty_generics, where_clause) = bounds.split();
        let events = methods.iter().zip(&model.routes).enumerate().map(
            |(index, (method, route))| {
                let constant = Ident::new(&route.name.value().to_uppercase(), method.span());
                let (exchange, key) = (route.exchange.value(), route.key.literal.value());
                let of_constant = format!(
                    "The route of [`{method}`](Self::{method}): exchange `{exchange}`, key `{key}`."
                );
                let of_method =
                    format!("Publishes the event as [`{constant}`](Self::{constant}); await it.");
                let constant = private.constant(vis, &constant, index);
                let method = private.method(vis, method);
                quote! {
                    #[doc = #of_constant]
                    #[allow(dead_code)]
                    #constant

                    #[doc = #of_method]
                    #[allow(dead_code)]
                    #method {
                        let route = &<Self as #private::Event>::ROUTES[#index];
                        bus.publish(#private::Encode::encode(self, route))
                    }
                }
            },
        );
        quote! {
            #[automatically_derived]
            #[allow(deprecated)]
            impl #impl_generics #ident #ty_generics #where_clause {
                #(#events)*
            }
        }
    }

    fn raw_payload(&self, Field { member, ty }: &Field) -> TokenStream {
        let Self {
            outline: Outline { ident, .. },
            private,
            ..
        } = self;
        let mut bounds = Bounds::new(self.outline);
        bounds.need(quote!(#ty: #private::RawPayload));
        let (impl_generics, ty_generics, where_clause) = bounds.split();
        let field = quote_spanned!(ty.span()=> <#ty as #private::RawPayload>);
        quote! {
            #[automatically_derived]
            #[allow(deprecated)]
            impl #impl_generics #private::RawPayload for #ident #ty_generics #where_clause {
                fn to_payload(&self) -> #private::Bytes {
                    #field::to_payload(&self.#member)
                }

                fn from_payload(payload: &#private::Bytes) -> ::core::result::Result<Self, #private::BoxError> {
                    ::core::result::Result::Ok(Self { #member: #field::from_payload(payload)? })
                }
            }
        }
    }
}

/// The type as it is written in its own definition: `Order<T>`.
fn type_name(
    Outline {
        ident, generics, ..
    }: &Outline,
) -> String {
    let params: Vec<String> = generics
        .params
        .iter()
        .filter_map(|param| match param {
            GenericParam::Type(param) => Some(param.ident.to_string()),
            GenericParam::Const(param) => Some(param.ident.to_string()),
            GenericParam::Lifetime(_) => None,
        })
        .collect();
    if params.is_empty() {
        ident.unraw().to_string()
    } else {
        format!("{}<{}>", ident.unraw(), params.join(", "))
    }
}
