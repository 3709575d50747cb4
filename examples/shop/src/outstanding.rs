//! Which of the published orders a service has still to handle.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use switchboard::{End, MessageId, Observed};
use tokio::sync::Notify;

/// The orders that were published here and that not every service has handled or given up.
///
/// On a broker that others use, the queues may hold orders that were not published here; they are none of
/// its business.
#[derive(Debug)]
pub struct Outstanding {
    services: Vec<&'static str>,
    state: Mutex<State>,
    progress: Notify,
}

/// What a service did with its deliveries.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Handled {
    /// Deliveries that are done.
    pub done: u64,
    /// Deliveries that failed and are tried again.
    pub retries: u64,
    /// Deliveries that became dead letters.
    pub dead_letters: u64,
}

/// A bit for each service.
type Services = u32;

#[derive(Debug, Default)]
struct State {
    handled: Vec<Handled>,
    /// The services that an order is waiting for.
    waiting: HashMap<MessageId, Services>,
    /// The services that were done before the publish was: an order may be handled before its publisher
    /// hears that the broker has it.
    early: Option<HashMap<MessageId, Services>>,
    /// At how many orders someone wants to know.
    watermark: usize,
}

impl Outstanding {
    /// For orders that all of these services handle.
    pub fn new(services: impl IntoIterator<Item = &'static str>) -> Self {
        let services: Vec<_> = services.into_iter().collect();
        let handled = vec![Handled::default(); services.len()];
        Self {
            services,
            state: Mutex::new(State {
                handled,
                ..State::default()
            }),
            progress: Notify::new(),
        }
    }

    /// Waits for a publish and expects its messages to be handled.
    pub async fn expect(&self, publish: impl Future<Output = Vec<MessageId>>) {
        self.with(|state| state.early = Some(HashMap::new()));
        let published = publish.await;
        let all = (1 << self.services.len()) - 1;
        self.with(|state| {
            let early = state.early.take().unwrap_or_default();
            for id in published {
                let left = all & !early.get(&id).copied().unwrap_or_default();
                if left != 0 {
                    state.waiting.insert(id, left);
                }
            }
        });
    }

    /// Takes note of a delivery that a service handled.
    pub fn note(&self, observed: &Observed<'_>) {
        let id = observed.delivery.message().id();
        self.record(observed.service, id, observed.end);
    }

    fn record(&self, service: &str, id: &MessageId, end: End) {
        let Some(service) = self.services.iter().position(|name| *name == service) else {
            return;
        };
        let reached = self.with(|state| {
            let handled = &mut state.handled[service];
            match end {
                End::Ack => handled.done += 1,
                End::Reject => handled.dead_letters += 1,
                _ => {
                    handled.retries += 1;
                    return false;
                }
            }
            state.finish(id, 1 << service);
            state.waiting.len() <= state.watermark
        });
        if reached {
            self.progress.notify_one();
        }
    }

    /// Waits until at most this many orders are outstanding.
    pub async fn at_most(&self, orders: usize) {
        while self.with(|state| {
            state.watermark = orders;
            state.waiting.len() > orders
        }) {
            self.progress.notified().await;
        }
    }

    /// How many orders are outstanding.
    pub fn count(&self) -> usize {
        self.with(|state| state.waiting.len())
    }

    /// What each service did.
    pub fn handled(&self) -> Vec<(&'static str, Handled)> {
        let handled = self.with(|state| state.handled.clone());
        self.services.iter().copied().zip(handled).collect()
    }

    // A std mutex: nothing awaits while it is held.
    fn with<R>(&self, read: impl FnOnce(&mut State) -> R) -> R {
        read(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl State {
    fn finish(&mut self, id: &MessageId, service: Services) {
        if let Some(left) = self.waiting.get_mut(id) {
            *left &= !service;
            if *left == 0 {
                self.waiting.remove(id);
            }
        } else if let Some(early) = &mut self.early {
            *early.entry(id.clone()).or_default() |= service;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shop() -> Outstanding {
        Outstanding::new(["billing", "logistic"])
    }

    #[tokio::test]
    async fn an_order_is_outstanding_until_both_services_are_done() {
        let (shop, id) = (shop(), MessageId::from("A-7"));
        shop.expect(async { vec![id.clone()] }).await;
        shop.record("billing", &id, End::Retry);
        shop.record("billing", &id, End::Reject);
        shop.record("billing", &id, End::Reject);
        assert_eq!(shop.count(), 1);
        shop.record("logistic", &id, End::Ack);
        shop.at_most(0).await;
        let billing = Handled {
            done: 0,
            retries: 1,
            dead_letters: 2,
        };
        assert_eq!(shop.handled()[0], ("billing", billing));
    }

    #[tokio::test]
    async fn a_service_may_be_faster_than_the_confirmation() {
        let (shop, id) = (shop(), MessageId::from("A-7"));
        let publish = async {
            shop.record("billing", &id, End::Ack);
            vec![id.clone()]
        };
        shop.expect(publish).await;
        assert_eq!(shop.count(), 1);
        shop.record("logistic", &id, End::Ack);
        assert_eq!(shop.count(), 0);
    }

    #[tokio::test]
    async fn orders_of_others_are_not_waited_for() {
        let (shop, other) = (shop(), MessageId::from("B-1"));
        shop.record("billing", &other, End::Ack);
        let publish = async {
            shop.record("logistic", &other, End::Ack);
            vec![]
        };
        shop.expect(publish).await;
        shop.at_most(0).await;
        assert!(shop.with(|state| state.early.is_none()));
    }

    #[tokio::test]
    async fn waiting_ends_when_few_enough_are_left() {
        let shop = shop();
        let ids: Vec<_> = ["A-1", "A-2", "A-3"].map(MessageId::from).into();
        shop.expect(async { ids.clone() }).await;
        let handle = async {
            for id in &ids[..2] {
                tokio::task::yield_now().await;
                shop.record("billing", id, End::Ack);
                shop.record("logistic", id, End::Ack);
            }
        };
        tokio::join!(shop.at_most(1), handle);
        assert_eq!(shop.count(), 1);
    }
}
