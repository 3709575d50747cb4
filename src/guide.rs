//! The guide, in reading order. The same pages are in the folder `docs` of the repository.
//!
//! Every example is compiled and run as a test. Some of them use `switchboard::testing`, so the pages are
//! built with the feature `testing`.

macro_rules! pages {
    ($($name:ident: $file:literal,)*) => {$(
        // A page says where its links lead in the repository. The first definition of a link counts, so these
        // lead to modules here.
        #[cfg_attr(feature = "testing", doc = include_str!("guide/links.md"))]
        #[cfg_attr(feature = "testing", doc = include_str!(concat!("../docs/", $file)))]
        #[cfg_attr(not(feature = "testing"), doc = concat!("`docs/", $file, "` in the repository."))]
        pub mod $name {}
    )*};
}

pages! {
    events: "events.md",
    handlers: "handlers.md",
    failure: "failure.md",
    testing: "testing.md",
    middleware: "middleware.md",
    semantics: "semantics.md",
    rabbitmq: "rabbitmq.md",
    redis: "redis.md",
    kafka: "kafka.md",
    performance: "performance.md",
    architecture: "architecture.md",
    writing_a_backend: "writing-a-backend.md",
}

#[cfg(test)]
#[cfg(feature = "testing")]
mod tests {
    use std::{fs, path::Path};

    use crate::{
        Bus, Capability, Error, ErrorKind, Event, Outcome, Queue, Service, Support,
        testing::TestBroker,
    };

    const ROOT: &str = env!("CARGO_MANIFEST_DIR");

    #[derive(serde::Serialize, serde::Deserialize, Event)]
    #[event(exchange = "order", key = "order.v1.submit")]
    struct OrderSubmitted {
        id: u64,
    }

    async fn bill(_: OrderSubmitted) {}

    fn read(path: impl AsRef<Path>) -> String {
        let path = Path::new(ROOT).join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    fn pages() -> Vec<String> {
        let mut pages: Vec<String> = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md"]
            .map(str::to_owned)
            .into();
        for entry in fs::read_dir(Path::new(ROOT).join("docs")).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".md") {
                pages.push(format!("docs/{name}"));
            }
        }
        pages
    }

    async fn refusal(service: Service) -> Error {
        let bus: Bus = TestBroker::new().bus();
        service.start(&bus).await.unwrap_err()
    }

    #[tokio::test]
    async fn the_page_on_handlers_says_what_a_start_says() {
        let queue = || Queue::new("billing_order").bind("order", "order.*.submit");
        let service = |queue: Queue| Service::new("billing").queue(queue);
        let closure = |_: OrderSubmitted| async { Outcome::Ack };
        let refused = [
            service(queue().bind("order", "order.*.refuse").handle(bill)),
            service(
                Queue::new("billing_order")
                    .bind("order", "order.*.refuse")
                    .handle(bill),
            ),
            service(queue()),
            service(Queue::new("billing_order").handle(bill)),
            service(queue().handle(bill).handle(bill)),
            service(queue().handle(closure)),
            service(queue().handle(bill)).queue(queue().handle(bill)),
            Service::new("billing"),
            service(
                Queue::new("billing_order.dead")
                    .bind("order", "#")
                    .handle(bill),
            ),
            service(queue().concurrency(0).handle(bill)),
            service(
                Queue::existing("billing_order")
                    .bind("order", "#")
                    .handle(bill),
            ),
            service(
                Queue::ephemeral("billing_order")
                    .bind("order", "#")
                    .ordered()
                    .handle(bill),
            ),
        ];
        let page = read("docs/handlers.md");
        for service in refused {
            let error = refusal(service).await;
            assert_eq!(error.kind(), ErrorKind::Setup, "{error}");
            assert!(
                page.contains(&format!("``{error}")),
                "docs/handlers.md lacks: {error}"
            );
        }

        let error = refusal(service(
            Queue::new("billing order").bind("order", "#").handle(bill),
        ))
        .await;
        assert_eq!(error.kind(), ErrorKind::InvalidName);
        let text = page.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(
            text.contains(&format!("``{error}")),
            "docs/handlers.md lacks: {error}"
        );
    }

    #[test]
    fn the_readme_says_what_the_memory_broker_can_do() {
        let readme = read("README.md");
        let bus = TestBroker::new().bus();
        for capability in Capability::ALL {
            assert_eq!(
                bus.capabilities().support(capability),
                Support::Native,
                "{capability:?}"
            );
            let row = format!("| {} | native | ", capability.name());
            assert!(readme.contains(&row), "README.md lacks: {row}");
        }
    }

    #[test]
    fn the_page_on_backends_quotes_its_code() {
        let page = read("docs/writing-a-backend.md");
        let code = ["docs/small_backend.rs", "docs/small_backend_suite.rs"].map(read);
        let blocks: Vec<_> = page
            .split("\n```rs\n")
            .skip(1)
            .filter_map(|rest| rest.split("\n```\n").next())
            .collect();
        assert!(blocks.len() > 10, "{}", blocks.len());
        for block in blocks {
            let quoted = code.iter().any(|file| file.contains(block));
            assert!(quoted, "not in docs/small_backend*.rs:\n{block}");
        }
    }

    #[test]
    fn links_lead_to_files() {
        for page in pages() {
            let text = read(&page);
            let folder = Path::new(&page).parent().unwrap();
            let inline = text
                .split("](")
                .skip(1)
                .filter_map(|rest| rest.split(')').next());
            let definitions = text
                .lines()
                .filter(|line| line.starts_with('['))
                .filter_map(|line| Some(line.split_once("]: ")?.1));
            for link in inline.chain(definitions) {
                let file = link.split('#').next().unwrap_or_default();
                let outside = link.contains("://") || link.contains("::");
                let target = Path::new(ROOT).join(folder).join(file);
                assert!(outside || target.exists(), "{page} links to {link}");
            }
        }
    }
}
