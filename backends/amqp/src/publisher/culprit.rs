//! Which message ended a channel.

use super::Outbound;
use crate::{
    error::{self, RefusedRoute},
    wire::DEFAULT_EXCHANGE,
};

/// What ended a channel, or a connection.
pub(super) enum Culprit {
    /// No message: the connection was lost.
    Nobody,
    /// An exchange that is not there any more.
    Exchange(String),
    /// The messages that are larger than this.
    Larger(usize),
    /// The messages that go where their user may not publish.
    Route(RefusedRoute),
    /// One of the messages; the server does not say which.
    Unknown,
}

impl Culprit {
    pub(super) fn of(why: Option<&lapin::Error>) -> Self {
        let Some(why) = why else {
            return Self::Nobody;
        };
        if let Some(exchange) = error::missing_exchange(why) {
            Self::Exchange(exchange.to_owned())
        } else if let Some(most) = error::max_message(why) {
            Self::Larger(most)
        } else if let Some(route) = error::refused_route(why) {
            Self::Route(route)
        } else if error::refusal(why).is_some() {
            Self::Unknown
        } else {
            Self::Nobody
        }
    }

    /// Whether it is this message.
    pub(super) fn is(&self, outbound: &Outbound) -> bool {
        match self {
            Self::Nobody | Self::Exchange(_) | Self::Unknown => false,
            Self::Larger(most) => outbound.message.payload().len() > *most,
            Self::Route(refused) => {
                let (exchange, key) = outbound.route();
                let exchange = match exchange {
                    "" => DEFAULT_EXCHANGE,
                    named => named,
                };
                exchange == refused.exchange
                    && refused.key.as_deref().is_none_or(|refused| refused == key)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use event_core::{ExchangeName, Message, RoutingKey};
    use lapin::protocol::{AMQPError, AMQPErrorKind, AMQPSoftError};

    use super::*;
    use crate::wire::Notes;

    #[test]
    fn a_copy_that_may_not_be_stored_is_the_one_that_ended_the_channel() {
        let text = "ACCESS_REFUSED - access to exchange 'amq.default' in vhost '/' refused for user 'shop'";
        let refused = AMQPErrorKind::Soft(AMQPSoftError::ACCESSREFUSED);
        let why = lapin::ErrorKind::ProtocolError(AMQPError::new(refused, text.into())).into();
        let message = || {
            let exchange = ExchangeName::new("order").unwrap();
            Message::new(exchange, RoutingKey::new("order.v1.submit").unwrap(), "{}")
        };
        let culprit = Culprit::of(Some(&why));
        let copy = Outbound::copy(message(), "billing_order.dead".into(), Notes::default());
        assert!(culprit.is(&copy));
        assert!(!culprit.is(&Outbound::event(message())));
    }
}
