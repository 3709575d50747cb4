//! What a handler is: an async function of an event and extractors.

use std::{any::type_name, future::Future};

use crate::{delivery::Delivery, error::Result, event::Event, extract::FromDelivery};

/// An async function whose first argument is an event and whose others are extractors, at most seven.
///
/// The bounds on arguments and results stand in [`Arguments`] and [`IntoReply`](crate::IntoReply) and not
/// here, so that the compiler can say which argument is wrong.
#[diagnostic::on_unimplemented(
    message = "this is not a handler",
    label = "expected an `async fn` whose first argument is an event",
    note = "at most 8 arguments, all by value, and the future must be `Send`"
)]
pub trait Handler<Args>: Clone + Send + Sync + 'static {
    /// What it returns.
    type Output;
    /// Its future.
    type Future: Future<Output = Self::Output> + 'static;

    #[doc(hidden)]
    fn call(&self, args: Args) -> Self::Future;

    /// The function's name; nothing for a closure, which has none of its own.
    #[doc(hidden)]
    fn name(&self) -> Option<&'static str> {
        function_name(type_name::<Self>())
    }
}

/// The last word of a path like `shop::Biller<shop::Db>::bill<u8>`: what stands before its own generics.
fn function_name(path: &'static str) -> Option<&'static str> {
    let (mut depth, mut start, mut end) = (0_usize, 0, path.len());
    for (at, byte) in path.bytes().enumerate() {
        match byte {
            b'<' => {
                if depth == 0 {
                    end = at;
                }
                depth += 1;
            }
            b'>' => depth = depth.saturating_sub(1),
            b':' if depth == 0 => (start, end) = (at + 1, path.len()),
            _ => {}
        }
    }
    let name = path.get(start..end)?;
    (!name.is_empty() && !name.starts_with('{')).then_some(name)
}

/// The arguments of a handler: the event, then extractors.
pub trait Arguments<S>: Sized {
    /// The event.
    type Event: Event;

    #[doc(hidden)]
    fn extract(delivery: &Delivery, state: &S) -> Result<Self>;
}

macro_rules! arity {
    ($($argument:ident),*) => {
        impl<F, Fut, E, $($argument),*> Handler<(E, $($argument,)*)> for F
        where
            F: Fn(E, $($argument),*) -> Fut + Clone + Send + Sync + 'static,
            Fut: Future + 'static,
        {
            type Output = Fut::Output;
            type Future = Fut;

            #[allow(non_snake_case)]
            fn call(&self, (event, $($argument,)*): (E, $($argument,)*)) -> Fut {
                self(event, $($argument),*)
            }
        }

        impl<S, E: Event, $($argument: FromDelivery<S>),*> Arguments<S> for (E, $($argument,)*) {
            type Event = E;

            #[allow(unused_variables)]
            fn extract(delivery: &Delivery, state: &S) -> Result<Self> {
                Ok((E::decode(delivery)?, $($argument::from_delivery(delivery, state)?,)*))
            }
        }
    };
}

arity!();
arity!(A);
arity!(A, B);
arity!(A, B, C);
arity!(A, B, C, D);
arity!(A, B, C, D, G);
arity!(A, B, C, D, G, H);
arity!(A, B, C, D, G, H, I);

#[cfg(test)]
mod tests {
    use super::function_name;

    #[test]
    fn a_function_is_named_by_its_last_word() {
        for (path, name) in [
            ("shop::bill", Some("bill")),
            ("bill", Some("bill")),
            ("shop::bill<alloc::vec::Vec<u8>>", Some("bill")),
            ("shop::Biller<shop::Db>::bill", Some("bill")),
            ("<shop::Biller as shop::Bill<u8>>::bill", Some("bill")),
            ("shop::main::{{closure}}", None),
        ] {
            assert_eq!(function_name(path), name, "{path}");
        }
    }
}
