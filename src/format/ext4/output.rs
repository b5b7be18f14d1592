//! Blocks in, few and large writes out.

use super::layout::BLOCK_BYTES;

/// One block of the volume.
pub(super) type Block = [u8; BLOCK_LEN];

/// Length of a [`Block`], as arrays and slices count.
pub(super) const BLOCK_LEN: usize = BLOCK_BYTES as usize;

/// The longest single write in bytes: bounds memory, and past this a longer one gains nothing.
const RUN_BYTES: usize = 256 << 10;

/// Merges blocks that follow one another into one write.
pub(super) struct Output<W> {
    write: W,
    /// First block of `run`.
    start: u64,
    run: Vec<u8>,
}

impl<E, W: FnMut(u64, &[u8]) -> Result<(), E>> Output<W> {
    pub(super) fn new(write: W) -> Self {
        Self { write, start: 0, run: Vec::with_capacity(RUN_BYTES) }
    }

    /// Adds a block of the volume; blocks come in ascending order.
    pub(super) fn put(&mut self, number: u64, block: &Block) -> Result<(), E> {
        let next = self.start + (self.run.len() / BLOCK_LEN) as u64;
        if number != next || self.run.len() >= RUN_BYTES {
            self.flush()?;
            self.start = number;
        }
        self.run.extend_from_slice(block);
        Ok(())
    }

    /// Writes what is still held.
    pub(super) fn finish(mut self) -> Result<(), E> {
        self.flush()
    }

    fn flush(&mut self) -> Result<(), E> {
        if !self.run.is_empty() {
            (self.write)(self.start * u64::from(BLOCK_BYTES), &self.run)?;
            self.run.clear();
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merges_neighbours_up_to_the_bound() {
        let mut writes = Vec::new();
        let mut output = Output::new(|offset, bytes: &[u8]| {
            writes.push((offset, bytes.len()));
            Ok::<(), ()>(())
        });
        for number in (0..65).chain([70, 71, 80]) {
            output.put(number, &[0; BLOCK_LEN]).unwrap();
        }
        output.finish().unwrap();
        assert_eq!(
            writes,
            [(0, RUN_BYTES), (64 * 4096, 4096), (70 * 4096, 8192), (80 * 4096, 4096)]
        );
    }

    #[test]
    fn stops_at_the_first_error() {
        let mut calls = 0;
        let mut output = Output::new(|_, _: &[u8]| {
            calls += 1;
            Err("full")
        });
        assert_eq!(output.put(0, &[0; BLOCK_LEN]), Ok(()));
        assert_eq!(output.put(9, &[0; BLOCK_LEN]), Err("full"));
        assert_eq!(calls, 1);
    }
}
