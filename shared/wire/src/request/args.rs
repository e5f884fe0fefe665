//! The arguments of a request: a view of them, and an owner of copies.

/// One argument's place in its data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Span {
    start: u32,
    len: u32,
}

impl Span {
    /// Both fit: a request's bytes are limited to 32 bits of length.
    #[inline]
    pub(super) fn new(start: usize, len: usize) -> Self {
        Self {
            start: start as u32,
            len: len as u32,
        }
    }

    #[inline]
    fn of(self, data: &[u8]) -> &[u8] {
        let start = self.start as usize;
        data.get(start..start.saturating_add(self.len as usize))
            .unwrap_or(&[])
    }
}

/// A command's name and its arguments, as bytes of the input buffer. Cheap to copy.
#[derive(Clone, Copy)]
pub struct Args<'a> {
    data: &'a [u8],
    spans: &'a [Span],
}

impl<'a> Args<'a> {
    pub(super) fn new(data: &'a [u8], spans: &'a [Span]) -> Self {
        Self { data, spans }
    }

    /// How many there are, the name included.
    #[inline]
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is none, as behind the last one.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// The first: the command's name as sent.
    #[inline]
    pub fn name(&self) -> &'a [u8] {
        self.get(0).unwrap_or(&[])
    }

    /// The argument `index`, where 0 is the name.
    #[inline]
    pub fn get(&self, index: usize) -> Option<&'a [u8]> {
        self.spans.get(index).map(|span| span.of(self.data))
    }

    /// The argument `index`, which the arity of the command says is there. Were it not, this is
    /// an empty one rather than a panic of the process.
    #[inline]
    pub fn arg(&self, index: usize) -> &'a [u8] {
        debug_assert!(index < self.len(), "argument {index} of {}", self.len());
        self.get(index).unwrap_or(&[])
    }

    /// All but the first `count`.
    #[inline]
    pub fn skip(&self, count: usize) -> Args<'a> {
        Args {
            data: self.data,
            spans: self.spans.get(count..).unwrap_or(&[]),
        }
    }

    /// One after the other.
    #[inline]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + Clone + use<'a> {
        let data = self.data;
        self.spans.iter().map(move |span| span.of(data))
    }

    /// Two by two, as MSET and CONFIG SET take them; an odd last one is left out.
    #[inline]
    pub fn pairs(&self) -> impl ExactSizeIterator<Item = (&'a [u8], &'a [u8])> + Clone + use<'a> {
        let data = self.data;
        self.spans
            .as_chunks::<2>()
            .0
            .iter()
            .map(move |[a, b]| (a.of(data), b.of(data)))
    }
}

impl std::fmt::Debug for Args<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|arg| arg.escape_ascii().to_string()))
            .finish()
    }
}

/// A request that owns its bytes: for one that outlives the input buffer, and for tests.
#[derive(Clone, Debug, Default)]
pub struct RequestBuf {
    data: Vec<u8>,
    spans: Vec<Span>,
}

impl RequestBuf {
    /// A copy of these arguments, the name first. `None` if they are 4 GiB or more, or there is no
    /// memory for them.
    pub fn new<I>(args: I) -> Option<Self>
    where
        I: IntoIterator,
        I::Item: AsRef<[u8]>,
    {
        let mut request = Self::default();
        for arg in args {
            let arg = arg.as_ref();
            let start = request.data.len();
            u32::try_from(start.checked_add(arg.len())?).ok()?;
            request.spans.try_reserve(1).ok()?;
            request.data.try_reserve(arg.len()).ok()?;
            request.spans.push(Span::new(start, arg.len()));
            request.data.extend_from_slice(arg);
        }
        Some(request)
    }

    /// Heap bytes that it holds.
    pub fn heap_bytes(&self) -> usize {
        let spans_bytes = self.spans.capacity().saturating_mul(size_of::<Span>());
        self.data.capacity().saturating_add(spans_bytes)
    }

    /// The arguments.
    pub fn args(&self) -> Args<'_> {
        Args::new(&self.data, &self.spans)
    }
}
