// Folders of a model, as a page can read them: on a server, or opened by a person.

import { ModelError } from "../../node/lib/model_files.js";

/**
 * @typedef {object} Folder
 * @property {string} place as messages name it.
 * @property {(name: string) => Promise<string | null>} text of a small file, null where there is none.
 * @property {(name: string) => Promise<number | null>} size in bytes of a file, null where there is none.
 * @property {(name: string, onBytes: (count: number) => void, signal?: AbortSignal) => Promise<Uint8Array>} bytes
 */

/**
 * A folder on a server.
 * @param {string} url with a slash at its end.
 * @returns {Folder}
 */
export function serverFolder(url) {
  const get = async (name, options) => {
    try {
      return await fetch(new URL(name, url), options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ModelError(`${url}: the server does not answer; look whether it runs (${error.message})`);
    }
  };
  const found = async (name, options) => {
    const response = await get(name, options);
    // A server of single-page applications answers every question with its page.
    const isPage = response.headers.get("content-type")?.startsWith("text/html");
    if (response.status === 404 || (response.ok && isPage)) return null;
    if (!response.ok) throw new ModelError(`${url}${name}: the server says ${response.status} ${response.statusText}`);
    return response;
  };
  return {
    place: url,
    text: async (name) => (await found(name))?.text() ?? null,
    size: async (name) => {
      const response = await found(name, { method: "HEAD" });
      return response && Number(response.headers.get("content-length"));
    },
    bytes: async (name, onBytes, signal) => {
      const response = await found(name, { signal });
      if (!response) throw new ModelError(`${url}${name}: no such file on the server; put the whole folder there`);
      const length = Number(response.headers.get("content-length"));
      return filled(response.body, response.headers.get("content-encoding") ? 0 : length, `${url}${name}`, onBytes);
    },
  };
}

/**
 * A folder that a person opened.
 * @param {{path: string, file: File}[]} entries with paths of an input with `webkitdirectory`, the folder first.
 * @returns {Folder}
 */
export function openedFolder(entries) {
  const place = entries[0]?.path.split("/")[0] || "the opened folder";
  const byName = new Map(entries.map(({ path, file }) => [path.split("/").slice(1).join("/"), file]));
  return {
    place,
    text: async (name) => (await byName.get(name)?.text()) ?? null,
    size: async (name) => byName.get(name)?.size ?? null,
    bytes: async (name, onBytes) => {
      const file = byName.get(name);
      if (!file) throw new ModelError(`${place}: no ${name}; open the whole folder of the export`);
      return filled(file.stream(), file.size, `${place}/${name}`, onBytes);
    },
  };
}

/** All bytes of a stream. With `length` known they are put where they stay, so that they are in memory once. */
async function filled(stream, length, name, onBytes) {
  const reader = stream.getReader();
  let bytes = room(length || 1 << 20, name);
  let used = 0;
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    if (used + value.length > bytes.length) {
      const larger = room(Math.max(2 * bytes.length, used + value.length), name);
      larger.set(bytes.subarray(0, used));
      bytes = larger;
    }
    bytes.set(value, used);
    used += value.length;
    onBytes(value.length);
  }
  if (used < length) throw new ModelError(`${name}: ended after ${used} of ${length} bytes; load it again`);
  return bytes.subarray(0, used);
}

function room(length, name) {
  try {
    return new Uint8Array(length);
  } catch (error) {
    const size = `${Math.round(length / 1e6)} MB`;
    throw new ModelError(`${name}: too little memory for ${size}; close other tabs, or export fewer bits`, {
      cause: error,
    });
  }
}
