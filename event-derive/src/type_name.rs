//! Types as people write them: `stringify!` gives `Vec < u8 >` for what went through a derive.

use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens;

/// The type in the usual spacing.
pub(crate) fn type_name(ty: &impl ToTokens) -> String {
    let mut text = String::new();
    write(ty.to_token_stream(), &mut text);
    text
}

fn write(tokens: TokenStream, text: &mut String) {
    for token in tokens {
        match token {
            TokenTree::Ident(word) => write_word(&word.to_string(), text),
            TokenTree::Literal(word) => write_word(&word.to_string(), text),
            TokenTree::Punct(sign) => match sign.as_char() {
                sign @ (',' | ';') => text.extend([sign, ' ']),
                sign @ ('+' | '=') => text.extend([' ', sign, ' ']),
                '-' => text.push_str(" -"),
                '>' if text.ends_with(" -") => text.push_str("> "),
                sign => text.push(sign),
            },
            TokenTree::Group(group) => {
                let (open, close) = match group.delimiter() {
                    Delimiter::Parenthesis => ("(", ")"),
                    Delimiter::Bracket => ("[", "]"),
                    Delimiter::Brace => ("{", "}"),
                    Delimiter::None => ("", ""),
                };
                text.push_str(open);
                write(group.stream(), text);
                text.push_str(close);
            }
        }
    }
}

fn write_word(word: &str, text: &mut String) {
    if text.ends_with(|last: char| last == '_' || last.is_alphanumeric()) {
        text.push(' ');
    }
    text.push_str(word);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_spaced_as_rustfmt_does() {
        for ty in [
            "Vec<u8>",
            "std::collections::BTreeMap<String, Vec<Option<T>>>",
            "(u64, [u8; 32])",
            "&'static str",
            "&'static mut T",
            "Box<dyn Fn(u8) -> u8 + Send>",
            "<T as Iterator>::Item",
            "Page<Item = u8>",
        ] {
            let parsed: syn::Type = syn::parse_str(ty).unwrap();
            assert_eq!(type_name(&parsed), ty);
        }
    }
}
