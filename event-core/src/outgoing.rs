//! An encoded event on its way to the bus.

use smol_str::SmolStr;

use crate::{
    error::{Error, ErrorKind, Result},
    event::Publish,
    header::{self, HeaderValue},
    id::MessageId,
    message::Message,
};

/// An event that was validated, addressed and encoded, and that the bus has not seen yet.
///
/// It is what [`Route::of`](crate::Route::of) gives and what `publish_all` and a handler's return value take.
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "an outgoing event does nothing until it is published"]
pub struct Outgoing(Message);

impl Outgoing {
    /// Takes a message to publish.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`] when its routing key is empty or a header's name is reserved.
    pub fn new(message: Message) -> Result<Self> {
        if message.key().is_empty() {
            return Err(Error::new(
                ErrorKind::InvalidName,
                "routing key is empty; an event needs a key of at least one word",
            ));
        }
        for (name, _) in message.headers().iter() {
            header::check_name(name)?;
        }
        Ok(Self(message))
    }

    /// A message whose address the derive has checked.
    #[doc(hidden)]
    pub fn checked(message: Message) -> Self {
        Self(message)
    }

    /// Adds a header.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidName`] when the name is reserved or not legal.
    pub fn header(
        mut self,
        name: impl Into<SmolStr>,
        value: impl Into<HeaderValue>,
    ) -> Result<Self> {
        let name = name.into();
        header::check_name(&name)?;
        self.0.headers_mut().set(name, value);
        Ok(self)
    }

    /// Sets the id instead of having the bus make one, for example to publish again what an outbox kept.
    pub fn id(self, id: impl Into<MessageId>) -> Self {
        Self(self.0.with_id(id))
    }

    /// Makes it an error when no queue is bound for the event.
    pub fn mandatory(self) -> Self {
        Self(self.0.with_mandatory(true))
    }

    /// The message as it is so far; id, time and source may still be unset.
    pub fn message(&self) -> &Message {
        &self.0
    }

    pub(crate) fn into_message(self) -> Message {
        self.0
    }
}

/// What can be published: an event with a route of its own, or an [`Outgoing`], or the `Result` of one.
///
/// A value that cannot be encoded becomes the error of its own publish; others of the batch go on.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be published",
    note = "pass an event by reference, or `Order::SUBMIT.of(&order)` for a type with several events"
)]
pub trait IntoOutgoing {
    /// The encoded event.
    ///
    /// # Errors
    /// Whatever was wrong with the value.
    fn into_outgoing(self) -> Result<Outgoing>;
}

impl IntoOutgoing for Outgoing {
    fn into_outgoing(self) -> Result<Outgoing> {
        Ok(self)
    }
}

impl IntoOutgoing for Result<Outgoing> {
    fn into_outgoing(self) -> Result<Outgoing> {
        self
    }
}

impl<E: Publish> IntoOutgoing for &E {
    fn into_outgoing(self) -> Result<Outgoing> {
        self.outgoing()
    }
}
