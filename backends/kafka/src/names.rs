//! The names of topics.

use event_core::{Error, ErrorKind, ExchangeName, Result};

/// What stands for the exchange in the template of its topic.
pub(crate) const EXCHANGE: &str = "{exchange}";

/// How many characters Kafka allows.
const LONGEST: usize = 249;

/// Where retries of a queue wait for this many milliseconds; for none, what is put back into it.
pub(crate) fn retry(queue: &str, step: u64) -> String {
    format!("{queue}.retry.{step}")
}

/// Its dead letters.
pub(crate) fn dead(queue: &str) -> String {
    format!("{queue}.dead")
}

/// The topic of an exchange.
pub(crate) fn exchange(template: &str, exchange: &ExchangeName) -> Result<String> {
    let topic = template.replace(EXCHANGE, exchange);
    if topic.len() > LONGEST || matches!(topic.as_str(), "." | "..") {
        return Err(Error::new(
            ErrorKind::InvalidName,
            format!(
                "exchange `{exchange}` has no topic on Kafka: a topic's name has at most {LONGEST} characters and is \
                 neither `.` nor `..`"
            ),
        ));
    }
    if is_of_a_queue(&topic) {
        return Err(Error::new(
            ErrorKind::InvalidName,
            format!(
                "exchange `{exchange}` cannot have the topic `{topic}`: topics that end in `.dead` or `.retry.` and a \
                 number belong to queues; choose another name, or another `?topic=`"
            ),
        ));
    }
    Ok(topic)
}

/// Whether a name has the form of those that are derived from queues.
fn is_of_a_queue(topic: &str) -> bool {
    let step = topic.rsplit_once(".retry.").map(|(_, step)| step);
    topic.ends_with(".dead")
        || step.is_some_and(|step| !step.is_empty() && step.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_exchange_has_a_topic_of_its_own() {
        let topic = |template, name: &str| exchange(template, &ExchangeName::new(name).unwrap());
        assert_eq!(topic("{exchange}", "order").unwrap(), "order");
        assert_eq!(topic("shop.{exchange}", "order").unwrap(), "shop.order");
        for wrong in ["billing.dead", "billing.retry.100", ".."] {
            assert!(topic("{exchange}", wrong).is_err(), "{wrong}");
        }
        assert!(topic("{exchange}.dead.letters", "order").is_ok());
        assert!(topic("{exchange}", "retry.later").is_ok());
        assert!(topic(&format!("{}{{exchange}}", "x".repeat(60)), &"y".repeat(200)).is_err());
    }
}
