//! What only Redis has: plain channels, for programs that know nothing of events. At most once, as the names say.

#[doc(inline)]
pub use event_redis::{AtMostOnceChannels, AtMostOnceSubscription, Heard};
