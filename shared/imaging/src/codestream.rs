//! The picture's dimensions from the first bytes of a compressed stream, before a decoder allocates for them.

use crate::PrepareError;

/// What a compressed stream's own header declares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) components: u16,
    /// Bits per sample.
    pub(crate) precision: u16,
    /// JPEG-LS only: the components are coded one after another.
    pub(crate) planar: bool,
    /// JPEG only: coded by cosine transform, and so with loss.
    pub(crate) cosine: bool,
    /// JPEG only: a JFIF or Adobe segment says what the components are.
    pub(crate) tells_colour: bool,
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    what: &'static str,
}

impl<'a> Reader<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], PrepareError> {
        let end = self.at.saturating_add(N);
        let piece = self.bytes.get(self.at..end).and_then(|piece| piece.try_into().ok());
        self.at = end;
        piece.ok_or_else(|| {
            PrepareError::truncated(format!(
                "the {} stream ends inside its header: send the file again, whole",
                self.what
            ))
        })
    }

    fn u8(&mut self) -> Result<u8, PrepareError> {
        Ok(u8::from_be_bytes(self.take()?))
    }

    fn u16(&mut self) -> Result<u16, PrepareError> {
        Ok(u16::from_be_bytes(self.take()?))
    }

    fn u32(&mut self) -> Result<u32, PrepareError> {
        Ok(u32::from_be_bytes(self.take()?))
    }
}

/// A PNG file's IHDR chunk.
pub(crate) fn png(bytes: &[u8]) -> Result<Shape, PrepareError> {
    let mut reader = Reader { bytes, at: 8, what: "PNG" };
    let (_length, kind) = (reader.u32()?, reader.take::<4>()?);
    if &kind != b"IHDR" {
        return Err(PrepareError::corrupt("the PNG file does not begin with its header chunk"));
    }
    let (width, height, depth, colour) = (reader.u32()?, reader.u32()?, reader.u8()?, reader.u8()?);
    let components = match colour {
        0 | 3 => 1,
        4 => 2,
        2 => 3,
        6 => 4,
        _ => return Err(PrepareError::corrupt("the PNG file has an unknown colour type")),
    };
    Ok(Shape {
        width,
        height,
        components,
        precision: depth.into(),
        planar: false,
        cosine: false,
        tells_colour: false,
    })
}

/// A JPEG stream's frame header, and where its scan begins. Reads JPEG-LS as well, whose markers are laid out alike.
pub(crate) fn jpeg(bytes: &[u8]) -> Result<(Shape, usize), PrepareError> {
    let mut reader = Reader { bytes, at: 0, what: "JPEG" };
    if reader.u16()? != 0xFFD8 {
        return Err(PrepareError::corrupt("the JPEG stream does not begin with its start marker"));
    }
    let mut shape: Option<Shape> = None;
    let mut tells_colour = false;
    loop {
        if reader.u8()? != 0xFF {
            return Err(PrepareError::corrupt("the JPEG stream has no marker where one should be"));
        }
        let mut marker = reader.u8()?;
        while marker == 0xFF {
            marker = reader.u8()?;
        }
        if matches!(marker, 0x01 | 0xD0..=0xD8) {
            continue;
        }
        if marker == 0xD9 {
            return Err(PrepareError::corrupt("the JPEG stream ends before its picture"));
        }
        let length = usize::from(reader.u16()?);
        let next = (reader.at - 2).saturating_add(length.max(2));
        match marker {
            0xE0 | 0xEE => tells_colour = true,
            // Frame headers; C4, C8 and CC are tables and extensions. F7 is JPEG-LS.
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF | 0xF7 => {
                let (precision, height, width, components) =
                    (reader.u8()?, reader.u16()?, reader.u16()?, reader.u8()?);
                shape = Some(Shape {
                    width: width.into(),
                    height: height.into(),
                    components: components.into(),
                    precision: precision.into(),
                    planar: false,
                    tells_colour: false,
                    cosine: !matches!(marker, 0xC3 | 0xC7 | 0xCB | 0xCF | 0xF7),
                });
            }
            0xDA => {
                let in_scan = u16::from(reader.u8()?);
                let shape = shape.ok_or_else(|| {
                    PrepareError::corrupt("the JPEG stream has a scan and no frame header")
                })?;
                return Ok((
                    Shape { planar: in_scan < shape.components, tells_colour, ..shape },
                    next,
                ));
            }
            _ => {}
        }
        reader.at = next;
    }
}

/// A JPEG 2000 codestream's SIZ segment, bare or in a JP2 file. HTJ2K has the same.
pub(crate) fn jpeg_2000(bytes: &[u8]) -> Result<Shape, PrepareError> {
    const START: [u8; 4] = [0xFF, 0x4F, 0xFF, 0x51];
    let at = if bytes.starts_with(&START) {
        0
    } else {
        // In a JP2 file the codestream follows boxes of metadata, which are short.
        let head = bytes.get(..bytes.len().min(64 << 10)).unwrap_or_default();
        head.windows(START.len())
            .position(|window| window == START)
            .ok_or_else(|| PrepareError::corrupt("the JPEG 2000 frame has no codestream"))?
    };
    let mut reader = Reader { bytes, at: at + START.len(), what: "JPEG 2000" };
    let (_length, _capabilities) = (reader.u16()?, reader.u16()?);
    let [x1, y1, x0, y0, tile_w, tile_h, _, _] = [
        reader.u32()?,
        reader.u32()?,
        reader.u32()?,
        reader.u32()?,
        reader.u32()?,
        reader.u32()?,
        reader.u32()?,
        reader.u32()?,
    ];
    let components = reader.u16()?;
    let precision = u16::from(reader.u8()? & 0x7F) + 1;
    let (dx, dy) = (reader.u8()?, reader.u8()?);
    let (width, height) = (x1.saturating_sub(x0), y1.saturating_sub(y0));
    if tile_w == 0 || tile_h == 0 || dx != 1 || dy != 1 {
        return Err(PrepareError::unsupported(
            "the JPEG 2000 frame is subsampled or has empty tiles",
        ));
    }
    // The decoder keeps some kilobytes for every tile, whether it is there or not.
    let tiles = u64::from(x1.div_ceil(tile_w)) * u64::from(y1.div_ceil(tile_h));
    if tiles > 4096 {
        return Err(PrepareError::over_limit(format!(
            "the JPEG 2000 frame has {tiles} tiles; the limit is 4096"
        )));
    }
    Ok(Shape {
        width,
        height,
        components,
        precision,
        planar: false,
        cosine: false,
        tells_colour: false,
    })
}

/// A JPEG XL codestream's size header (ISO/IEC 18181-1), bare or in its container. Gives width and height.
pub(crate) fn jpeg_xl(bytes: &[u8]) -> Result<(u32, u32), PrepareError> {
    let start = bytes.get(..bytes.len().min(64 << 10)).unwrap_or_default();
    let at = if start.starts_with(&[0xFF, 0x0A]) {
        0
    } else {
        let named = |name: &[u8], skip: usize| {
            start.windows(4).position(|window| window == name).map(|at| at + 4 + skip)
        };
        named(b"jxlc", 0)
            .or_else(|| named(b"jxlp", 4))
            .ok_or_else(|| PrepareError::corrupt("the JPEG XL frame has no codestream"))?
    };
    let mut bits = Bits { bytes, bit: (at + 2) * 8 };
    let small = bits.take(1)? == 1;
    let height = bits.side(small)?;
    let width = match bits.take(3)? {
        0 => bits.side(small)?,
        1 => height,
        2 => height * 12 / 10,
        3 => height * 4 / 3,
        4 => height * 3 / 2,
        5 => height * 16 / 9,
        6 => height * 5 / 4,
        _ => height * 2,
    };
    let narrow = |side: u64| u32::try_from(side).unwrap_or(u32::MAX);
    Ok((narrow(width), narrow(height)))
}

/// Bits from the least significant one of each byte on.
struct Bits<'a> {
    bytes: &'a [u8],
    bit: usize,
}

impl Bits<'_> {
    fn side(&mut self, small: bool) -> Result<u64, PrepareError> {
        if small {
            return Ok((self.take(5)? + 1) * 8);
        }
        let width = match self.take(2)? {
            0 => 9,
            1 => 13,
            2 => 18,
            _ => 30,
        };
        Ok(self.take(width)? + 1)
    }

    fn take(&mut self, count: u32) -> Result<u64, PrepareError> {
        let mut value = 0;
        for shift in 0..count {
            let byte = self.bytes.get(self.bit / 8).ok_or_else(|| {
                PrepareError::truncated("the JPEG XL frame ends inside its header")
            })?;
            value |= u64::from(byte >> (self.bit % 8) & 1) << shift;
            self.bit += 1;
        }
        Ok(value)
    }
}
