"""Files in object stores: `s3://`, `gs://` and `hdfs://` addresses as inputs, outputs and token shards."""
