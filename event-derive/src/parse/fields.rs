//! The fields of a struct: what fills in its keys, and what is its partition key.

use syn::{Fields, Ident, Index, LitStr, Member, ext::IdentExt, spanned::Spanned};

use super::parts::checked_key;
use crate::{
    attr::Attr,
    errors::Errors,
    model::{Field, RouteKey, Shown},
    options::Options,
    place::Place,
};

/// The fields of the struct itself.
pub(super) struct OwnFields<'a> {
    fields: &'a Fields,
    ident: &'a Ident,
}

impl<'a> OwnFields<'a> {
    pub(super) fn new(fields: &'a Fields, ident: &'a Ident) -> Self {
        Self { fields, ident }
    }

    fn all(&self) -> impl Iterator<Item = (Member, &'a syn::Field)> {
        self.fields.members().zip(self.fields)
    }

    pub(super) fn checked_key(&self, literal: LitStr, errors: &mut Errors) -> Option<RouteKey> {
        checked_key(literal, errors, |name, literal, errors| {
            let found = self.all().find(|(member, _)| text(member) == name);
            if found.is_none() {
                errors.at(literal, self.no_field(name));
            }
            let (mut member, field) = found?;
            match &mut member {
                Member::Named(ident) => ident.set_span(literal.span()),
                Member::Unnamed(Index { span, .. }) => *span = literal.span(),
            }
            Some(Shown {
                member,
                ty: Some(field.ty.clone()),
            })
        })
    }

    fn no_field(&self, name: &str) -> String {
        let known: Vec<String> = self
            .fields
            .members()
            .map(|member| format!("`{}`", text(&member)))
            .collect();
        let known = if known.is_empty() {
            "it has none".to_owned()
        } else {
            format!("it has {}", known.join(", "))
        };
        format!("`{}` has no field `{name}` to fill in; {known}", self.ident)
    }

    pub(super) fn partition_key(&self, errors: &mut Errors) -> Option<Shown> {
        let mut key: Option<Shown> = None;
        for (member, field) in self.all() {
            let attrs = Attr::read_all(&field.attrs, errors);
            let Some(word) =
                Options::collect(attrs, Place::Field, errors).flag("partition_key", errors)
            else {
                continue;
            };
            if let Some(earlier) = &key {
                let earlier = text(&earlier.member);
                errors.at(
                    word,
                    format!("`{earlier}` is the partition key already; an event has at most one"),
                );
            } else {
                let member = match member {
                    Member::Unnamed(index) => Member::Unnamed(Index {
                        span: field.ty.span(),
                        ..index
                    }),
                    named @ Member::Named(_) => named,
                };
                key = Some(Shown {
                    member,
                    ty: Some(field.ty.clone()),
                });
            }
        }
        key
    }

    /// The field of a struct that has one.
    pub(super) fn only(&self) -> Option<Field> {
        let mut all = self.all();
        let (member, field) = all.next()?;
        all.next().is_none().then(|| Field {
            member,
            ty: field.ty.clone(),
        })
    }
}

/// A field's name as a template has it.
fn text(member: &Member) -> String {
    match member {
        Member::Named(ident) => ident.unraw().to_string(),
        Member::Unnamed(index) => index.index.to_string(),
    }
}
