//! Lists of places by number, in two arrays: for millions of entries a vector each costs more than
//! what is in them.

#[derive(Debug, Default)]
pub struct Csr {
    starts: Vec<u32>,
    places: Vec<u32>,
}

impl Csr {
    /// Groups the places `0..` by what `groups` says of each; places of no group are left out.
    pub fn of_groups(count: usize, groups: impl Iterator<Item = Option<u32>> + Clone) -> Self {
        let mut starts = vec![0_u32; count + 1];
        for group in groups.clone().flatten() {
            starts[group as usize + 1] += 1;
        }
        for index in 0..count {
            starts[index + 1] += starts[index];
        }
        let mut next = starts.clone();
        let mut places = vec![0; starts[count] as usize];
        for (place, group) in (0_u32..).zip(groups) {
            if let Some(group) = group {
                let at = &mut next[group as usize];
                places[*at as usize] = place;
                *at += 1;
            }
        }
        Self { starts, places }
    }

    /// The places of a group, in their order.
    pub fn of(&self, group: u32) -> &[u32] {
        let group = group as usize;
        match (self.starts.get(group), self.starts.get(group + 1)) {
            (Some(from), Some(to)) => &self.places[*from as usize..*to as usize],
            _ => &[],
        }
    }
}
