//! Handles a fixed number of messages, for tools that count instructions and allocations: `count KIND N`.
//! What one message costs is the difference between two runs, divided by the difference of their numbers.

use std::process::ExitCode;

use event_benches::{Line, RawBytes, backend, framework, payload};
use event_core::{Bus, Codec, Json, Queue, RawEvent, Service};
use event_memory::MemoryBroker;

async fn run(kind: &str, messages: u64) -> event_core::Result<()> {
    match kind {
        "backend" => _ = backend(messages, payload(64)).await?,
        "raw" => {
            let shared = payload(64);
            // Leaked, so that a handle can be made by a function that is `Copy`.
            let shared: &'static bytes::Bytes = Box::leak(Box::new(shared));
            _ = framework(messages, 1, move |_| RawBytes(shared.clone())).await?;
        }
        "codec" => {
            // What of `json` is serde's.
            for id in 0..messages {
                let payload = <Json as Codec<Line>>::encode(&Line::new(id))?;
                let line: Line = Json::decode(std::hint::black_box(&payload))?;
                std::hint::black_box(line.id);
            }
        }
        "json" => _ = framework(messages, 1, Line::new).await?,
        "publish" => {
            // One awaited publish after the other, to a queue that nobody consumes; its length is the number.
            let bus = Bus::new(MemoryBroker::new().connect());
            let service = Service::new("bench").queue(
                Queue::new("bench_queue")
                    .bind("bench", "#")
                    .handle(|_: RawEvent| async {})
                    .named("nothing"),
            );
            bus.topology().declare(&service.topology()?).await?;
            let event = RawBytes(payload(64));
            for _ in 0..messages {
                event.publish(&bus).await?;
            }
        }
        _ => eprintln!("usage: count backend|raw|json|codec|publish N"),
    }
    Ok(())
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    let (Some(kind), Some(Ok(messages))) = (arguments.next(), arguments.next().map(|n| n.parse()))
    else {
        eprintln!("usage: count backend|raw|json|codec|publish N");
        return ExitCode::from(2);
    };
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(&kind, messages)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
