//! The address by which a Kafka broker tells its clients to find it, replaced in what it sends.

/// A client of Kafka asks the first broker that it reaches for the addresses of all, and connects to those. So that
/// it comes back to the proxy, the port that follows the broker's host is the proxy's in every answer. The host
/// stays, which is why nothing changes its length.
#[derive(Clone, Debug)]
pub(crate) struct Advertised {
    /// The host as text, and its port in four bytes, as in every answer of the protocol that holds an address.
    address: Vec<u8>,
    port: [u8; 4],
    place: Place,
}

/// Where in its answers the broker is: each is a length in four bytes and so many bytes.
#[derive(Clone, Debug, Default)]
struct Place {
    length: u32,
    /// How many bytes of the length have come.
    digits: u8,
    /// How many bytes of the answer are to come.
    left: usize,
}

impl Advertised {
    /// What stands as `host:port` in the broker's URL and is to have another port. `None` if there is no port.
    pub(crate) fn new(broker: &str, port: u16) -> Option<Self> {
        let (host, broker_port) = broker.rsplit_once(':')?;
        let broker_port: u16 = broker_port.parse().ok()?;
        let mut address = host.as_bytes().to_vec();
        address.extend(u32::from(broker_port).to_be_bytes());
        Some(Self {
            address,
            port: u32::from(port).to_be_bytes(),
            place: Place::default(),
        })
    }

    /// Replaces the address in these bytes, the first `held` of which it has seen before. Says how many may go to the
    /// client; the others may be the beginning of an address, and come again in front of what is read next.
    ///
    /// Nothing waits for bytes that do not come: an address lies within one answer, so the end of an answer, which the
    /// client waits for, holds back nothing.
    pub(crate) fn replace(&mut self, bytes: &mut [u8], held: usize) -> usize {
        self.place.advance(&bytes[held..]);
        // Found by its last byte, which is rarer than the digits of a host.
        let last = self.address[self.address.len() - 1];
        let mut end = 0;
        while let Some(at) = bytes[end..].iter().position(|byte| *byte == last) {
            end += at + 1;
            if bytes[..end].ends_with(&self.address) {
                bytes[end - self.port.len()..end].copy_from_slice(&self.port);
            }
        }
        if self.place.is_between_answers() {
            return bytes.len();
        }
        let is_begun = |length: &usize| bytes.ends_with(&self.address[..*length]);
        bytes.len() - (1..self.address.len()).rev().find(is_begun).unwrap_or(0)
    }
}

impl Place {
    fn advance(&mut self, mut bytes: &[u8]) {
        while let [digit, rest @ ..] = bytes {
            if self.left > 0 {
                let step = self.left.min(bytes.len());
                self.left -= step;
                bytes = &bytes[step..];
                continue;
            }
            self.length = self.length << 8 | u32::from(*digit);
            self.digits += 1;
            if self.digits == 4 {
                *self = Self {
                    left: self.length as usize,
                    ..Self::default()
                };
            }
            bytes = rest;
        }
    }

    fn is_between_answers(&self) -> bool {
        self.left == 0 && self.digits == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "127.0.0.1";
    const PROXY: u16 = 0x3132;

    fn advertised(port: u16) -> Advertised {
        Advertised::new(&format!("{HOST}:{port}"), PROXY).unwrap()
    }

    fn address(host: &str, port: u16) -> Vec<u8> {
        let length = u16::try_from(host.len()).unwrap();
        let port = u32::from(port);
        [
            &length.to_be_bytes()[..],
            host.as_bytes(),
            &port.to_be_bytes(),
        ]
        .concat()
    }

    fn answer(parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let length = u32::try_from(body.len()).unwrap();
        [&length.to_be_bytes()[..], &body].concat()
    }

    /// Answers of a broker at this port that tell it as another. Beside them are the addresses of others, and bytes
    /// that only begin as one; the last is a record that ends so.
    fn answers(port: u16, told: u16) -> Vec<u8> {
        let own = address(HOST, told);
        let others = [address("127.0.0.2", port), address(HOST, 2)].concat();
        let twice = [b"127.0.0.", &own[2..]].concat();
        let cluster = answer(&[b"order 1", &own, &own, &others, &own, &twice, b"127.0.0.1"]);
        [cluster, answer(&[]), answer(&[&own]), answer(&[b"order 1"])].concat()
    }

    /// What a client gets of these pieces, read one after the other.
    fn send(advertised: &mut Advertised, pieces: &[&[u8]]) -> Vec<u8> {
        let (mut got, mut held) = (Vec::new(), Vec::new());
        for piece in pieces {
            let mut bytes = [&held, *piece].concat();
            let ready = advertised.replace(&mut bytes, held.len());
            held = bytes.split_off(ready);
            got.extend(bytes);
        }
        got
    }

    /// Among them ports whose bytes are those of the host, of each other, and zero.
    const PORTS: [u16; 5] = [9092, 0x3131, 0x3100, 0x0031, 1];

    #[test]
    fn its_port_is_replaced_and_no_other() {
        for port in PORTS {
            let sent = answers(port, port);
            let got = send(&mut advertised(port), &[&sent]);
            assert_eq!(got, answers(port, PROXY), "port {port}");
        }
    }

    #[test]
    fn an_address_is_found_in_two_pieces() {
        for port in PORTS {
            let sent = answers(port, port);
            for at in 0..=sent.len() {
                let (one, other) = sent.split_at(at);
                let got = send(&mut advertised(port), &[one, other]);
                assert_eq!(got, answers(port, PROXY), "port {port}, cut at {at}");
            }
        }
    }

    #[test]
    fn an_address_is_found_byte_by_byte() {
        for port in PORTS {
            let sent = answers(port, port);
            let pieces: Vec<_> = sent.chunks(1).collect();
            let got = send(&mut advertised(port), &pieces);
            assert_eq!(got, answers(port, PROXY), "port {port}");
        }
    }

    #[test]
    fn only_what_may_become_the_address_is_held_back() {
        let sent = answer(&[b"order 1", b"127.0.0.2", &address(HOST, 9092)]);
        for at in 0..sent.len() {
            let got = send(&mut advertised(9092), &[&sent[..at]]);
            let held = &sent[got.len()..at];
            assert!(address(HOST, 9092)[2..].starts_with(held), "cut at {at}");
        }
    }

    #[test]
    fn the_end_of_an_answer_is_not_held_back() {
        let (order, empty) = (answer(&[b"order 127.0.0.1"]), answer(&[]));
        let mut advertised = advertised(9092);
        for sent in [&order, &empty, &order] {
            assert_eq!(send(&mut advertised, &[sent]), *sent);
            let (one, other) = sent.split_at(2);
            assert_eq!(send(&mut advertised, &[one, other]), *sent);
        }
    }

    #[test]
    fn without_a_port_there_is_nothing_to_find() {
        for broker in ["", "127.0.0.1", "127.0.0.1:", "127.0.0.1:kafka"] {
            assert!(Advertised::new(broker, PROXY).is_none(), "{broker}");
        }
    }
}
