//! Producers that are refused for good.

use event_conformance::{CaseResult, ensure_eq, orders::order, publish};
use rdkafka::types::{RDKafkaApiKey as Request, RDKafkaRespErr as Answer};

use super::{Mock, numbers};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_producer_that_met_a_fatal_error_is_replaced() -> CaseResult {
    let at = Mock::start().await?;
    let mut member = at.member().await?;
    // An idempotent producer does nothing more after this.
    let refused = Answer::RD_KAFKA_RESP_ERR_CLUSTER_AUTHORIZATION_FAILED;
    at.answer(Request::InitProducerId, &[refused; 2]);
    let bus = at.cx.process().await?;
    let published = || {
        let bus = bus.clone();
        async move {
            match order(1).publish(&bus).await {
                Ok(_) => Ok(true),
                Err(error) if error.is_retryable() => Ok(false),
                Err(error) => Err(error.into()),
            }
        }
    };
    at.cx.until("an order to be published", published).await?;
    publish(&bus, 2..=100).await?;
    let orders = numbers(&member.take(100).await?);
    ensure_eq!(orders, (1..=100).collect(), "orders");
    Ok(())
}
