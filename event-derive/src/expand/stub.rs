//! What stands in for the real impls when something is wrong: the same traits, methods and constants, in
//! name only, so that uses of the type are not errors as well.

use proc_macro2::{Group, TokenStream, TokenTree};
use quote::{ToTokens, quote};
use syn::{GenericParam, Generics, Ident};

use super::private::Private;
use crate::model::{Methods, Outline};

pub(crate) fn stub(outline: &Outline) -> TokenStream {
    let Outline {
        vis,
        ident,
        generics,
        methods,
        ..
    } = outline;
    let private = Private::new(outline);
    let (impl_generics, ty_generics, where_clause) = split(generics);
    let never = quote!(::core::unimplemented!());
    let outgoing = quote!(#private::Result<#private::Outgoing>);
    let method = |name: &Ident| {
        let head = private.method(vis, name);
        quote! {
            /// Not there yet.
            #[allow(dead_code, unused_variables)]
            #head { #never }
        }
    };
    let publishing = match methods {
        Methods::Publish => {
            let publish = method(&Ident::new("publish", ident.span()));
            quote! {
                impl #impl_generics #private::Publish for #ident #ty_generics #where_clause {
                    fn outgoing(&self) -> #outgoing { #never }
                }
                impl #impl_generics #private::IntoOutgoing for #ident #ty_generics #where_clause {
                    fn into_outgoing(self) -> #outgoing { #never }
                }
                impl #impl_generics #ident #ty_generics #where_clause { #publish }
            }
        }
        Methods::Named(names) => {
            let events = names.iter().map(|name| {
                let constant = Ident::new(&name.to_string().to_uppercase(), name.span());
                let (constant, method) = (private.constant(vis, &constant, 0), method(name));
                quote! {
                    /// Not there yet.
                    #[allow(dead_code)]
                    #constant
                    #method
                }
            });
            quote!(impl #impl_generics #ident #ty_generics #where_clause { #(#events)* })
        }
    };
    quote! {
        impl #impl_generics #private::Event for #ident #ty_generics #where_clause {
            const ROUTES: &'static [#private::RouteInfo] = &[#private::RouteInfo::new("", "", "", "")];
            fn decode(_: &#private::Delivery) -> #private::Result<Self> { #never }
        }
        impl #impl_generics #private::Encode for #ident #ty_generics #where_clause {
            fn encode(&self, _: &'static #private::RouteInfo) -> #outgoing { #never }
        }
        #publishing
    }
}

/// The generics for an impl. Lifetimes, which are an error, are all `'static`, as an event is.
fn split(generics: &Generics) -> (TokenStream, TokenStream, TokenStream) {
    let lifetimes: Vec<Ident> = generics
        .lifetimes()
        .map(|param| param.lifetime.ident.clone())
        .collect();
    let mut without = generics.clone();
    without.params = generics
        .params
        .iter()
        .filter(|param| !matches!(param, GenericParam::Lifetime(_)))
        .cloned()
        .collect();
    if !without.params.is_empty() {
        without
            .make_where_clause()
            .predicates
            .push(syn::parse_quote!(Self: ::core::marker::Send + 'static));
    }
    let (impl_generics, _, where_clause) = without.split_for_impl();
    let (_, ty_generics, _) = generics.split_for_impl();
    let made_static = |tokens: TokenStream| made_static(tokens, &lifetimes);
    (
        made_static(impl_generics.to_token_stream()),
        made_static(ty_generics.to_token_stream()),
        made_static(where_clause.to_token_stream()),
    )
}

/// The tokens with `'static` in place of these lifetimes.
fn made_static(tokens: TokenStream, lifetimes: &[Ident]) -> TokenStream {
    let mut after_quote = false;
    let replaced = tokens.into_iter().map(|token| {
        let is_name = std::mem::replace(
            &mut after_quote,
            matches!(&token, TokenTree::Punct(p) if p.as_char() == '\''),
        );
        match token {
            TokenTree::Ident(name) if is_name && lifetimes.contains(&name) => {
                Ident::new("static", name.span()).into()
            }
            TokenTree::Group(group) => {
                Group::new(group.delimiter(), made_static(group.stream(), lifetimes)).into()
            }
            other => other,
        }
    });
    replaced.collect()
}
