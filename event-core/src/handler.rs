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
        let path = type_name::<Self>();
        let path = path.split('<').next().unwrap_or(path);
        let name = path.rsplit("::").next().unwrap_or(path);
        (name != "{{closure}}" && !name.is_empty()).then_some(name)
    }
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
