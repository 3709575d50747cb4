//! The suite against backends that refuse one thing: what needs it is tried as refused, and the rest holds.

#[path = "memory/setup.rs"]
mod setup;

use std::sync::Arc;

use event_conformance::{Intercept, Intercepted, Verdict};
use event_core::{Capabilities, Capability, Support, Transport};

/// A backend that refuses something. The framework does the rest: it asks for nothing that is refused.
#[derive(Debug)]
struct Without(Capabilities);

impl Without {
    fn around(inner: Arc<dyn Transport>, capability: Capability) -> Arc<dyn Transport> {
        let refused = Support::Refused("the test says so");
        let capabilities = inner.capabilities().clone().with(capability, refused);
        Intercepted::around(inner, Self(capabilities))
    }
}

impl Intercept for Without {
    fn capabilities<'a>(&'a self, _: &'a dyn Transport) -> &'a Capabilities {
        &self.0
    }
}

#[test]
fn a_backend_may_refuse_anything() {
    let mut wrong = Vec::new();
    for capability in Capability::ALL {
        let setup = setup::setup().with_wrapper(move |inner| Without::around(inner, capability));
        for (case, verdict) in setup.verdicts() {
            let needs = case.needs.contains(&capability);
            let refused = matches!(verdict, Verdict::Refused(_));
            if matches!(verdict, Verdict::Failed(_)) || refused != needs {
                wrong.push(format!("without {capability:?}: {} {verdict}", case.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
