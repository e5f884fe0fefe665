//! A place in a tree at random: a descent that takes any child of each page. Pages are about
//! equally full, so all leaves are about equally likely.

use super::Tree;
use crate::error::Result;
use rd_format::NodeRef;
use rd_format::bitmap::ROOT_BLOCK;

impl Tree<'_> {
    /// Some key on a leaf, whether it is there still or not; none if the leaf is empty. `random`
    /// is a random number.
    pub(crate) fn random_key(&self, mut random: u64) -> Result<Option<Vec<u8>>> {
        let mut block = ROOT_BLOCK;
        let mut above: Option<u8> = None;
        loop {
            let page = self.fetch(block)?.into_read();
            if !self.is_in_tree(&page, block)? {
                return Ok(None);
            }
            let node = NodeRef::new(&page);
            let level = node.level();
            if let Some(above) = above.replace(level).filter(|above| *above <= level) {
                return Err(self.broken(block, format!("level {level} below level {above}")));
            }
            let count = node.count() as u64;
            if count == 0 {
                return Ok(None);
            }
            // As many bits as a page needs; the next page gets others.
            let slot = (((random & 0xFFFF) * count) >> 16) as usize;
            random = random.rotate_right(16);
            if node.is_leaf() {
                return Ok(Some(node.leaf_entry(slot).key.to_vec()));
            }
            block = node.inner_entry(slot).1;
        }
    }
}
