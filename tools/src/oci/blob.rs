//! The archive in a layer's blob, unpacked while it is read, and hashed.

use std::fs::File;
use std::io::{self, BufReader, Read, Take};

use cvm_init::error::{Error, Result};
use flate2::bufread::MultiGzDecoder;

use super::zstd::Zstd;
use super::{Hashing, Layer, Packing, Source};

/// What is read at a time.
const BUFFER: usize = 1 << 16;

/// The bytes of a layer's archive. They are those that the image's configuration names once
/// [`Blob::finish`] has said so.
pub struct Blob<'a> {
    stream: Hashing<Unpacked<BufReader<Take<File>>>>,
    layer: &'a Layer,
    max: u64,
}

enum Unpacked<R> {
    Plain(R),
    Gzip(MultiGzDecoder<R>),
    Zstd(Box<Zstd<R>>),
}

impl<'a> Blob<'a> {
    /// The blob of `layer`, of which at most `max` bytes are unpacked.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn open(source: &Source, layer: &'a Layer, max: u64) -> Result<Self> {
        let packed = BufReader::with_capacity(BUFFER, source.file(&layer.file)?);
        let unpacked = match layer.packing {
            Packing::Plain => Unpacked::Plain(packed),
            Packing::Gzip => Unpacked::Gzip(MultiGzDecoder::new(packed)),
            Packing::Zstd => Unpacked::Zstd(Box::new(Zstd::new(packed))),
        };
        Ok(Self { stream: Hashing::new(unpacked), layer, max })
    }

    /// Reads what is left, and returns how many bytes there were in all.
    ///
    /// # Errors
    /// They are not the ones that the configuration names, or cannot be read.
    pub fn finish(mut self) -> Result<u64> {
        let cause = |cause: io::Error| Error::cannot(&"unpack it", &cause);
        io::copy(&mut self, &mut io::sink()).map_err(cause)?;
        let bytes = self.stream.count();
        let found = self.stream.digest();
        if found != self.layer.diff_id {
            return Err(Error::new(format!(
                "unpacked it is {found}, but {} in the configuration",
                self.layer.diff_id
            )));
        }
        Ok(bytes)
    }
}

impl Read for Blob<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.stream.read(buffer)?;
        if self.stream.count() > self.max {
            return Err(io::Error::other(format!(
                "the image has more than the {} bytes that --max-size allows",
                self.max
            )));
        }
        Ok(read)
    }
}

impl<R: io::BufRead> Read for Unpacked<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(buffer),
            Self::Gzip(stream) => stream.read(buffer),
            Self::Zstd(stream) => stream.read(buffer),
        }
    }
}
