/** A worker for browser.test.js that downloads one file into the browser's store. */

import { download } from '../src/engine/download.js'
import { errorValues } from '../src/shared/errors.js'
import { openStore } from '../src/engine/store.js'

self.onmessage = async ({ data: { url, spec, waits } }) => {
  const store = await openStore()
  try {
    let [kept, fetched] = [0, 0]
    await download(url, 'weights', spec, store, (bytes, isNew) => (isNew ? (fetched += bytes) : (kept += bytes)), waits)
    const blob = await store.blob(spec.sha256)
    self.postMessage({ store: store.name, kept, fetched, size: blob.size })
  } catch (error) {
    self.postMessage({ ...errorValues(error), store: store.name, size: await store.size(spec.sha256) })
  }
}
