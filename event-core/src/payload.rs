//! Payloads made with one allocation.

use std::cell::RefCell;

use bytes::Bytes;

use crate::error::Result;

/// Buffers beyond this are not kept for the next event.
const LARGEST_KEPT: usize = 64 * 1024;

thread_local!(static BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) });

/// The bytes that are written into a buffer. The buffer is kept by the thread, so that an encoder's guess
/// of the size costs nothing.
pub(crate) fn written(write: impl FnOnce(&mut Vec<u8>) -> Result<()>) -> Result<Bytes> {
    // Taken out, since an encoder may run another one on the same thread.
    let mut buffer = BUFFER.take();
    buffer.clear();
    let written = write(&mut buffer);
    let payload = written.map(|()| shared(&buffer));
    if buffer.capacity() <= LARGEST_KEPT {
        BUFFER.set(buffer);
    }
    payload
}

/// Bytes that are counted where they lie. A `Bytes` of a vector allocates its count on its own, at the
/// latest when it is cloned, which every payload is on its way to a queue.
fn shared(bytes: &[u8]) -> Bytes {
    match bytes.len() {
        0 => Bytes::new(),
        1..=64 => Inline::<64>::of(bytes),
        65..=128 => Inline::<128>::of(bytes),
        129..=256 => Inline::<256>::of(bytes),
        257..=512 => Inline::<512>::of(bytes),
        513..=1_024 => Inline::<1_024>::of(bytes),
        // Beside a copy of this size, a second allocation is not seen.
        _ => Bytes::copy_from_slice(bytes),
    }
}

struct Inline<const MOST: usize> {
    bytes: [u8; MOST],
    len: usize,
}

impl<const MOST: usize> Inline<MOST> {
    fn of(from: &[u8]) -> Bytes {
        let mut bytes = [0; MOST];
        bytes[..from.len()].copy_from_slice(from);
        Bytes::from_owner(Self {
            bytes,
            len: from.len(),
        })
    }
}

impl<const MOST: usize> AsRef<[u8]> for Inline<MOST> {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_of_every_size_are_kept() {
        for len in [0, 1, 64, 65, 200, 1_024, 1_025, 100_000] {
            let bytes: Vec<u8> = (0..len).map(|at| (at % 251) as u8).collect();
            let payload = written(|buffer| {
                buffer.extend(&bytes);
                Ok(())
            });
            assert_eq!(payload.unwrap(), bytes);
        }
    }

    #[test]
    fn an_encoder_may_run_another() {
        let outer = written(|buffer| {
            buffer.extend(b"outer ");
            buffer.extend(written(|buffer| {
                buffer.extend(b"inner");
                Ok(())
            })?);
            Ok(())
        });
        assert_eq!(outer.unwrap(), "outer inner");
    }
}
