//! The shop that people come from, with Celery's topic routing: what it could do, and how it lost messages. Each
//! is a case here, under its number.

/// A behaviour of the shop, or one of its failures, and the cases that prove the one and rule out the other.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Behaviour {
    /// `A` for what it did and this does too; `S` for how it failed and this does not.
    pub number: &'static str,
    /// What it is.
    pub what: &'static str,
    /// The names of the cases.
    pub cases: &'static [&'static str],
}

const fn is(number: &'static str, what: &'static str, cases: &'static [&'static str]) -> Behaviour {
    Behaviour {
        number,
        what,
        cases,
    }
}

/// All of them. A18, the demonstration in three processes, is an example with its own test; S9 and S13 concern
/// replies and another broker.
pub const SHOP: &[Behaviour] = &[
    is(
        "A1",
        "several events on one type, each with its own key, the exchange named once",
        &["one_type_has_several_events"],
    ),
    is(
        "A2",
        "publish from the value, no exchange or key at the call site",
        &["one_type_has_several_events"],
    ),
    is(
        "A3",
        "subscribe through the type",
        &["one_type_has_several_events"],
    ),
    is(
        "A4",
        "the callback gets the typed, nested value",
        &["values_round_trip"],
    ),
    is(
        "A5",
        "several callbacks for one event in one service, run in registration order",
        &["handlers_run_in_the_order_of_registration"],
    ),
    is(
        "A6",
        "each service's queue gets its own copy",
        &["each_queue_has_its_own_copy"],
    ),
    is(
        "A7",
        "two processes of one service share its queue",
        &["consumers_of_one_queue_compete"],
    ),
    is(
        "A8",
        "the queue's pattern is independent of the event's own key",
        &["the_binding_is_independent_of_the_events_own_key"],
    ),
    is(
        "A9",
        "the version is a word of the key",
        &[
            "one_type_has_several_events",
            "a_newer_type_reads_an_older_event",
        ],
    ),
    is(
        "A10",
        "queues are durable: messages wait while the consumer is down",
        &[
            "a_queue_receives_what_is_published_after_it_was_declared",
            "a_queue_keeps_messages_while_its_service_is_down",
        ],
    ),
    is(
        "A11",
        "extra metadata given at publish reaches the callback",
        &["headers_reach_the_handler"],
    ),
    is("A12", "a producer with no queues", &["ok_means_stored"]),
    is(
        "A13",
        "one log line per event received and per result, with name, id and duration",
        &["an_observer_sees_each_delivery"],
    ),
    is(
        "A14",
        "an in-memory mode for unit tests",
        // The suite runs against the memory broker, which is this mode.
        &["ok_means_stored", "redelivers_after_handler_error"],
    ),
    is(
        "A15",
        "exchange, key and the list of known events can be inspected",
        &["one_type_has_several_events"],
    ),
    is(
        "A16",
        "integers, floats and nested sequences round-trip",
        &["values_round_trip"],
    ),
    is(
        "A17",
        "publish returns an id",
        &["a_receipt_names_its_message"],
    ),
    is(
        "S1",
        "publishing before any consumer declared the exchange loses the message while the producer prints success",
        &[
            "a_publish_declares_its_exchange",
            "an_event_without_a_queue_is_counted",
        ],
    ),
    is(
        "S2",
        "no queue bound: silent drop",
        &[
            "mandatory_without_a_queue_is_unroutable",
            "an_event_without_a_queue_is_counted",
        ],
    ),
    is(
        "S3",
        "`order.v2.submit` reaches the queue and is then discarded as unknown",
        &[
            "an_unknown_key_uses_no_attempt",
            "a_newer_version_handles_what_an_older_one_does_not_know",
        ],
    ),
    is(
        "S4",
        "one failing callback stops the later ones, and the message is already acknowledged",
        &[
            "a_failing_handler_does_not_stop_the_next",
            "only_failed_handlers_run_again",
        ],
    ),
    is(
        "S5",
        "two callbacks of the same name silently replace each other",
        &["two_handlers_of_one_name_are_refused"],
    ),
    is(
        "S6",
        "a bad payload loses the message",
        &["an_undecodable_payload_becomes_a_dead_letter_at_once"],
    ),
    is(
        "S7",
        "an unknown extra field loses the message",
        &["an_unknown_field_is_ignored"],
    ),
    is(
        "S10",
        "forgetting an import is a consumer that silently does nothing",
        &[
            "a_service_without_a_queue_is_refused",
            "a_queue_without_a_handler_is_refused",
            "a_binding_that_no_handler_takes_is_refused",
        ],
    ),
    is(
        "S12",
        "nothing validates, on either side",
        &[
            "an_event_that_breaks_its_rules_is_not_published",
            "an_invalid_event_becomes_a_dead_letter_at_once",
        ],
    ),
];
