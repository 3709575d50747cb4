//! The bounds of generated impls: what the code in them needs, and nothing guessed about `T`.

use proc_macro2::{TokenStream, TokenTree};
use quote::quote;
use syn::{Generics, Ident, ImplGenerics, TypeGenerics};

use super::private::Private;
use crate::model::{Outline, Payload, Piece, RouteKey, Shown};

/// The generics of a type, to write an impl with.
pub(super) struct Bounds<'a> {
    generics: &'a Generics,
    /// Without parameters a bound would hold or not once and for all; then an error in the code itself is
    /// better than one at every use.
    needed: Vec<TokenStream>,
}

impl<'a> Bounds<'a> {
    pub(super) fn new(outline: &'a Outline) -> Self {
        Self {
            generics: &outline.generics,
            needed: Vec::new(),
        }
    }

    /// Asks for something that the parameters decide on.
    pub(super) fn need(&mut self, bound: TokenStream) -> &mut Self {
        if self.mentions_parameter(&bound) {
            self.needed.push(bound);
        }
        self
    }

    /// What every event needs.
    pub(super) fn event(&mut self) -> &mut Self {
        self.need(quote!(Self: ::core::marker::Send + 'static))
    }

    /// What encoding and decoding `ty` needs.
    pub(super) fn payload(
        &mut self,
        payload: &Payload,
        ty: &TokenStream,
        private: &Private,
    ) -> &mut Self {
        let codec = private.codec(&payload.codec);
        self.need(quote!(#codec: #private::Codec<#ty>));
        if payload.validate.is_some() {
            self.need(quote!(#ty: #private::Validated));
        }
        self
    }

    /// What filling in a key needs.
    pub(super) fn key(&mut self, key: &RouteKey) -> &mut Self {
        for piece in &key.pieces {
            if let Piece::Field(_, field) = piece {
                self.shown(Some(field));
            }
        }
        self
    }

    /// What making text of a field needs, if its type is known.
    pub(super) fn shown(&mut self, field: Option<&Shown>) -> &mut Self {
        if let Some(ty) = field.and_then(|field| field.ty.as_ref()) {
            self.need(quote!(#ty: ::core::fmt::Display));
        }
        self
    }

    /// `impl<…>`, `<…>` and `where …`
    pub(super) fn split(&self) -> (ImplGenerics<'a>, TypeGenerics<'a>, TokenStream) {
        let (impl_generics, ty_generics, own) = self.generics.split_for_impl();
        let own = own.into_iter().flat_map(|clause| &clause.predicates);
        let needed = &self.needed;
        (
            impl_generics,
            ty_generics,
            quote!(where #(#own,)* #(#needed,)*),
        )
    }

    /// A bound without a parameter in it is either superfluous or an error of its own.
    fn mentions_parameter(&self, bound: &TokenStream) -> bool {
        fn any(tokens: TokenStream, names: &[&Ident]) -> bool {
            tokens.into_iter().any(|token| match token {
                TokenTree::Ident(ident) => ident == "Self" || names.contains(&&ident),
                TokenTree::Group(group) => any(group.stream(), names),
                TokenTree::Punct(_) | TokenTree::Literal(_) => false,
            })
        }
        let types = self.generics.type_params().map(|param| &param.ident);
        let names: Vec<&Ident> = types
            .chain(self.generics.const_params().map(|param| &param.ident))
            .collect();
        !names.is_empty() && any(bound.clone(), &names)
    }
}
