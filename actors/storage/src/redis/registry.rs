//! Indexes: which products, terminals, users and topics there are, and who is in a topic. Sorted sets
//! in the order of names, read in pages behind a name; never a SCAN. They follow the records they
//! list and are repaired from them.

use clarion_core::LogKind;
use clarion_protocol::{ProductId, TerminalId, TopicName};
use futures_util::future::join_all;

use super::link::Request;
use super::reply::{Args, Parts, number};
use super::schema::{BUCKETS, Index, PRODUCTS_TAG, bucket_of, index_tag, tag_of};
use super::{RedisStore, scripts};
use crate::engine::codec::{decode_product, encode_product};
use crate::record::ProductRecord;
use crate::{StoreError, StoreResult};

impl RedisStore {
    /// Adds a name to an index; true if it is new.
    pub(super) async fn enlist(
        &self,
        product: &ProductId,
        index: Index,
        name: &str,
    ) -> StoreResult<bool> {
        let tag = index_tag(product, index, bucket_of(name));
        let call = self.call(&scripts::ENLIST, &tag, Args::new().bytes(name));
        Ok(number(self.shards.write(&tag, call).await?)? == 1)
    }

    /// Removes a name from an index; true if it was there.
    pub(super) async fn strike(
        &self,
        product: &ProductId,
        index: Index,
        name: &str,
    ) -> StoreResult<bool> {
        let tag = index_tag(product, index, bucket_of(name));
        let call = self.call(&scripts::STRIKE, &tag, Args::new().bytes(name));
        Ok(number(self.shards.write(&tag, call).await?)? == 1)
    }

    /// How many names a bucket has, and a page of them.
    pub(super) async fn bucket(
        &self,
        product: &ProductId,
        index: Index,
        bucket: u8,
        after: &str,
        limit: usize,
    ) -> StoreResult<(u64, Vec<String>)> {
        let tag = index_tag(product, index, bucket);
        self.page(&tag, self.keys.main(&tag), after, limit).await
    }

    async fn page(
        &self,
        tag: &str,
        key: Vec<u8>,
        after: &str,
        limit: usize,
    ) -> StoreResult<(u64, Vec<String>)> {
        let args = Args::new().bytes(after).number(limit as u64);
        let call = super::call_of(&scripts::LIST, key, args);
        let mut parts = Parts::of(self.shards.read(tag, call).await?)?;
        Ok((parts.number()?, parts.texts()?))
    }

    /// Names of an index in their order, behind `after`.
    pub(super) async fn names(
        &self,
        product: &ProductId,
        index: Index,
        after: &str,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        let pages = (0..BUCKETS).map(|bucket| self.bucket(product, index, bucket, after, limit));
        let mut names = Vec::new();
        for page in join_all(pages).await {
            names.extend(page?.1);
        }
        names.sort_unstable();
        names.truncate(limit);
        Ok(names)
    }

    /// How many names an index has.
    pub(super) async fn count_of(&self, product: &ProductId, index: Index) -> StoreResult<u64> {
        let pages = (0..BUCKETS).map(|bucket| self.bucket(product, index, bucket, "", 0));
        let mut count = 0;
        for page in join_all(pages).await {
            count += page?.0;
        }
        Ok(count)
    }

    pub(super) async fn members_of(
        &self,
        product: &ProductId,
        topic: &TopicName,
        after: &str,
        limit: usize,
    ) -> StoreResult<Vec<TerminalId>> {
        let tag = tag_of(product, LogKind::Topic, topic.as_str());
        let (_, names) = self.page(&tag, self.keys.with(&tag, ":m"), after, limit).await?;
        names.iter().map(|name| terminal_id(name)).collect()
    }

    /// Has upkeep know of a product, once in this process.
    pub(super) async fn announce(&self, product: &ProductId) {
        if self.announced.contains(product) {
            return;
        }
        let key = self.keys.with(PRODUCTS_TAG, ":known");
        let call = super::call_of(&scripts::ENLIST, key, Args::new().bytes(product.as_str()));
        match self.shards.write(PRODUCTS_TAG, call).await {
            Ok(_) => self.announced.add(product),
            Err(error) => super::index_failed(&error),
        }
    }

    /// Products that have something, in their order.
    pub(super) async fn known_products(
        &self,
        after: &str,
        limit: usize,
    ) -> StoreResult<Vec<String>> {
        let key = self.keys.with(PRODUCTS_TAG, ":known");
        Ok(self.page(PRODUCTS_TAG, key, after, limit).await?.1)
    }

    pub(super) async fn put_product_record(
        &self,
        product: &ProductRecord,
        expect_absent: bool,
    ) -> StoreResult<bool> {
        let name = product.product.as_str();
        let record = encode_product(product, name.as_bytes());
        let args = Args::new().bytes(name).bytes(&*record).flag(expect_absent);
        let call = self.call(&scripts::PRODUCT, PRODUCTS_TAG, args);
        Ok(number(self.shards.write(PRODUCTS_TAG, call).await?)? == 1)
    }

    pub(super) async fn product_records(
        &self,
        name: &str,
        after: &str,
        limit: usize,
    ) -> StoreResult<Vec<ProductRecord>> {
        let args = Args::new().bytes(name).bytes(after).number(limit as u64);
        let call = self.call(&scripts::PRODUCTS, PRODUCTS_TAG, args);
        let mut parts = Parts::of(self.shards.read(PRODUCTS_TAG, call).await?)?;
        let mut products = Vec::new();
        while !parts.is_empty() {
            let (name, record) = (parts.bytes()?, parts.bytes()?);
            products.push(decode_product(&name, &record)?);
        }
        Ok(products)
    }

    /// One plain read.
    pub(super) async fn get(&self, tag: &str) -> StoreResult<::redis::Value> {
        let key = self.keys.main(tag);
        self.shards.read(tag, Request::command([&b"GET"[..], &key])).await
    }
}

pub(super) fn terminal_id(name: &str) -> StoreResult<TerminalId> {
    TerminalId::new(name)
        .map_err(|_| StoreError::Fatal(format!("an index holds {name:?}, which is no terminal")))
}
