//! 6. Dead letters.

use event_core::{Outcome, Reason};

use crate::{Act, CaseResult, Context, case::cases, ensure_eq, orders::order};

cases!(DeadLetters: a_dead_letter_says_what_happened [DeadLetters]);

async fn a_dead_letter_says_what_happened(cx: Context) -> CaseResult {
    let desk = cx
        .desk()
        .doing(|_| Act::End(Outcome::Reject("no such customer".to_owned())));
    let _running = cx.start(cx.bus(), cx.queue("billing_order", &desk)).await?;
    order(7).publish(cx.bus()).await?;
    let letters = cx.dead_letters("billing_order", 1).await?;
    ensure_eq!(letters.len(), 1, "dead letters");
    let letter = &letters[0];
    ensure_eq!(letter.reason(), Some(Reason::Rejected), "reason");
    ensure_eq!(letter.error(), Some("no such customer"), "error");
    ensure_eq!(letter.handlers(), ["bill"], "handlers");
    ensure_eq!(letter.consumer(), Some("billing"), "consumer");
    Ok(())
}
