//! The module that generated code takes everything from, and the pieces of code that name it.
//!
//! Where the compiler may find fault with a piece, all of its tokens have one span, that of what the user
//! wrote: a span that covers tokens from elsewhere too is shown as the whole derive. A variable in such a
//! piece is bound under the same span, because `self` and others of the derive's are not the same word there
//! when what the user wrote came through a macro.

use proc_macro2::{Span, TokenStream};
use quote::{ToTokens, quote, quote_spanned};
use syn::{Ident, LitStr, Member, Visibility, spanned::Spanned};

use crate::model::{Codec, Outline, Payload, Piece, RouteKey, Shown};

/// `::switchboard::__private`
pub(super) struct Private(TokenStream);

impl Private {
    pub(super) fn new(outline: &Outline) -> Self {
        let krate = &outline.krate;
        Self(quote!(#krate::__private))
    }

    /// The codec of a payload as a type.
    pub(super) fn codec(&self, codec: &Codec) -> TokenStream {
        match codec {
            Codec::Ours(ident) => {
                let private = at(ident.span(), self);
                quote_spanned!(ident.span()=> #private::#ident)
            }
            Codec::Given(ty) => ty.to_token_stream(),
        }
    }

    /// The codec as what encodes and decodes a type: `<Json as Codec<Order>>`.
    fn codec_for(&self, codec: &Codec, ty: &TokenStream) -> TokenStream {
        let span = match codec {
            Codec::Ours(ident) => ident.span(),
            Codec::Given(ty) => ty.span(),
        };
        let (private, codec, ty) = (at(span, self), self.codec(codec), at(span, ty));
        quote_spanned!(span=> <#codec as #private::Codec<#ty>>)
    }

    /// The media type of a payload.
    pub(super) fn content_type(&self, payload: &Payload, ty: &TokenStream) -> TokenStream {
        if let Some(literal) = &payload.content_type {
            return literal.to_token_stream();
        }
        let codec = self.codec_for(&payload.codec, ty);
        quote!(#codec::CONTENT_TYPE)
    }

    /// `validate(value)?;`, if that was asked for.
    pub(super) fn validate(&self, payload: &Payload, value: &TokenStream) -> Option<TokenStream> {
        let span = payload.validate.as_ref()?.span();
        let (private, event) = (at(span, self), Ident::new("event", span));
        let check = quote_spanned!(span=> #private::validate(#event));
        Some(quote!({ let #event = #value; #check?; }))
    }

    /// A block with the value in `delivery`; it returns when there is none.
    pub(super) fn decode(&self, payload: &Payload, ty: &TokenStream) -> TokenStream {
        let codec = self.codec_for(&payload.codec, ty);
        let validate = self.validate(payload, &quote!(&value));
        quote! {{
            #self::check_content_type(delivery, #codec::CONTENT_TYPE)?;
            let value: #ty = #codec::decode(delivery.message().payload())?;
            #validate
            value
        }}
    }

    /// Encodes `value`, which is checked, for `route`. `message` is the message with the payload.
    pub(super) fn outgoing(
        &self,
        payload: &Payload,
        ty: &TokenStream,
        value: &TokenStream,
        message: &TokenStream,
        partition_key: Option<&Shown>,
    ) -> TokenStream {
        let codec = self.codec_for(&payload.codec, ty);
        let partition_key = partition_key.map(|Shown { member, .. }| {
            let field = field(value, member);
            quote!(let message = message.with_partition_key(#self::partition_key(#field));)
        });
        quote! {
            let payload = #codec::encode(#value)?;
            let message = #message;
            #partition_key
            ::core::result::Result::Ok(#self::Outgoing::checked(message))
        }
    }

    /// A message for `route` with `payload`. A constant key costs nothing; others are filled from `value`.
    pub(super) fn message(&self, key: &RouteKey, value: &TokenStream) -> TokenStream {
        if key.key.is_constant() {
            return quote!(#self::message(route, payload));
        }
        let steps = key.pieces.iter().map(|piece| match piece {
            Piece::Text(text) => quote!(key.push_str(#text);),
            Piece::Field(name, Shown { member, .. }) => {
                let field = field(value, member);
                quote!(#self::push_word(&mut key, #name, #field)?;)
            }
        });
        let capacity = key.literal.value().len() + 16;
        quote! {{
            let mut key = ::std::string::String::with_capacity(#capacity);
            #(#steps)*
            #self::message_with_key(route, &key, payload)?
        }}
    }

    /// A `RouteInfo`.
    pub(super) fn route(
        &self,
        exchange: impl ToTokens,
        name: &LitStr,
        key: &RouteKey,
        type_name: impl ToTokens,
        content_type: impl ToTokens,
    ) -> TokenStream {
        let (literal, pattern) = (&key.literal, key.key.pattern());
        let version = key.key.version();
        let version = version.map_or_else(
            || quote!(::core::option::Option::None),
            |version| quote!(::core::option::Option::Some(#version)),
        );
        // All messages of a route share their address, unless a value has a part in it.
        let address = key.key.is_constant().then(|| {
            quote! {
                .with_address(const { &#self::Parts::checked(#exchange, #literal, #content_type) })
            }
        });
        quote! {
            #self::RouteInfo::new(#exchange, #name, #literal, #pattern)
                .described(#version, #type_name, #content_type)
                #address
        }
    }

    /// The head of a method that publishes.
    pub(super) fn method(&self, vis: &Visibility, name: &Ident) -> TokenStream {
        generated(
            name,
            &quote! {
                #vis fn #name<'bus>(&self, bus: &'bus #self::Bus) -> #self::Publishing<'bus>
            },
        )
    }

    /// A constant for the route with this index.
    pub(super) fn constant(&self, vis: &Visibility, name: &Ident, index: usize) -> TokenStream {
        generated(
            name,
            &quote! {
                #vis const #name: #self::Route<Self> = #self::Route::new(&<Self as #self::Event>::ROUTES[#index]);
            },
        )
    }
}

/// Its path.
impl ToTokens for Private {
    fn to_tokens(&self, tokens: &mut TokenStream) {
        self.0.to_tokens(tokens);
    }
}

/// `&self.region`, where the user named the field.
fn field(value: &TokenStream, member: &Member) -> TokenStream {
    let span = member.span();
    let event = Ident::new("event", span);
    let field = quote_spanned!(span=> &#event.#member);
    quote!({ let #event = #value; #field })
}

/// The tokens of something that the user's code sees by this name, all of them where the name is: that is
/// what the compiler shows when the type has something of this name already.
fn generated(name: &Ident, tokens: &TokenStream) -> TokenStream {
    // Only the place is the user's. The rest stays the derive's, or the user's lints would apply.
    at(Span::call_site().located_at(name.span()), tokens)
}

/// The tokens with another span.
pub(super) fn at(span: Span, tokens: &impl ToTokens) -> TokenStream {
    let tokens = tokens.to_token_stream().into_iter();
    tokens
        .map(|mut token| {
            token.set_span(span);
            token
        })
        .collect()
}
