/** What the migrations from the third on add to the ledger. */
export const SINCE_0003: readonly string[] = [
  "price_version",
  "cache_write_long_tokens",
  "audio_input_tokens",
  "image_input_tokens",
  "audio_output_tokens",
  "image_output_tokens",
  "prediction_tokens",
  "images",
  "requests",
  "raw_usage",
  "tag",
  "tried",
  "digest",
];
