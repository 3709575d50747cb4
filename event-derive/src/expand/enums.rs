//! The impls of an enum.

use proc_macro2::TokenStream;
use quote::{ToTokens, quote, quote_spanned};
use syn::{Type, ext::IdentExt, spanned::Spanned};

use super::{
    bounds::Bounds,
    private::{Private, at},
};
use crate::{
    model::{Content, Enum, Field, Outline, Variant},
    type_name::type_name,
};

pub(super) fn expand(outline: &Outline, model: &Enum, private: &Private) -> TokenStream {
    let enum_ = Expand {
        outline,
        model,
        private,
    };
    let event = enum_.event();
    let outgoing = enum_.outgoing();
    let exchange = model.exchange.value();
    let doc = format!(
        "Publishes the value of the variant to exchange `{exchange}` with the variant's key; await it."
    );
    let publish = super::publish_impls(outline, private, &enum_.bounds(), &doc, &outgoing);
    quote!(#event #publish)
}

struct Expand<'a> {
    outline: &'a Outline,
    model: &'a Enum,
    private: &'a Private,
}

impl Expand<'_> {
    fn bounds(&self) -> Bounds<'_> {
        let mut bounds = Bounds::new(self.outline);
        bounds.event();
        for variant in &self.model.variants {
            if let Content::Known { payload, .. } = &variant.content {
                bounds.payload(payload, &variant.value.ty.to_token_stream(), self.private);
            }
        }
        bounds
    }

    fn event(&self) -> TokenStream {
        let Self {
            outline: Outline { ident, .. },
            model,
            private,
        } = self;
        let bounds = self.bounds();
        let (impl_generics, ty_generics, where_clause) = bounds.split();
        let routes = model.variants.iter().map(|variant| self.route(variant));
        let decode = self.decode();
        quote! {
            #[automatically_derived]
            #[allow(deprecated)]
            impl #impl_generics #private::Event for #ident #ty_generics #where_clause {
                const ROUTES: &'static [#private::RouteInfo] = &[#(#routes),*];

                fn decode(delivery: &#private::Delivery) -> #private::Result<Self> {
                    #decode
                }
            }
        }
    }

    fn route(&self, variant: &Variant) -> TokenStream {
        let Self {
            model: Enum { exchange, .. },
            private,
            ..
        } = self;
        let (name, ty) = (&variant.name, variant.value.ty.to_token_stream());
        let type_name = type_name(&ty);
        match &variant.content {
            Content::Other => quote! {
                #private::RouteInfo::new(#exchange, #name, "#", "#")
                    .described(::core::option::Option::None, #type_name, "")
            },
            Content::Known { key, payload, .. } => {
                let content_type = private.content_type(payload, &ty);
                private.route(exchange, name, key, &type_name, content_type)
            }
        }
    }

    /// Constant keys come first, whatever their place, so that a field's value never hides one.
    fn decode(&self) -> TokenStream {
        let Self {
            outline: Outline { ident, .. },
            model,
            private,
        } = self;
        let (mut constant, mut filled) = (TokenStream::new(), TokenStream::new());
        let name = ident.unraw().to_string();
        let mut rest = quote!(::core::result::Result::Err(#private::not_taken(#name, delivery)));
        for (index, variant) in model.variants.iter().enumerate() {
            let (ident, content) = (&variant.ident, &variant.content);
            let Field { member, ty } = &variant.value;
            match content {
                Content::Other => {
                    let other = self.as_other(ty);
                    rest = quote!(::core::result::Result::Ok(Self::#ident { #member: #other::decode_other(delivery)? }));
                }
                Content::Known { key, payload, .. } => {
                    let literal = &key.literal;
                    let decode = private.decode(payload, &ty.to_token_stream());
                    let decode =
                        quote!(::core::result::Result::Ok(Self::#ident { #member: #decode }));
                    if key.key.is_constant() {
                        constant.extend(quote!(#literal => #decode,));
                    } else {
                        let route = quote!(<Self as #private::Event>::ROUTES[#index]);
                        filled.extend(quote! {
                            key if #route.takes(delivery.message().exchange(), key) => #decode,
                        });
                    }
                }
            }
        }
        quote! {
            match delivery.message().key().as_str() {
                #constant
                #filled
                _ => #rest,
            }
        }
    }

    /// `<RawEvent as Other>`, at the type, so that another one shows there.
    fn as_other(&self, ty: &Type) -> TokenStream {
        let private = at(ty.span(), self.private);
        quote_spanned!(ty.span()=> <#ty as #private::Other>)
    }

    /// The variant's value, encoded for the variant's route.
    fn outgoing(&self) -> TokenStream {
        let Self { model, private, .. } = self;
        let variants = model.variants.iter().enumerate().map(|(index, variant)| {
            let ident = &variant.ident;
            let Field { member, ty } = &variant.value;
            let value = quote!(value);
            let outgoing = match &variant.content {
                Content::Other => {
                    let other = self.as_other(ty);
                    quote!(#other::publish_other(#value))
                }
                Content::Known {
                    key,
                    payload,
                    partition_key,
                } => {
                    let ty = ty.to_token_stream();
                    let validate = private.validate(payload, &value);
                    let message = private.message(key, &value);
                    let outgoing =
                        private.outgoing(payload, &ty, &value, &message, partition_key.as_ref());
                    quote! {
                        #validate
                        let route = &<Self as #private::Event>::ROUTES[#index];
                        #outgoing
                    }
                }
            };
            quote!(Self::#ident { #member: value } => { #outgoing })
        });
        quote!(match self { #(#variants)* })
    }
}
