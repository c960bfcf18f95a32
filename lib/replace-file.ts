import { randomBytes } from "node:crypto";
import { type FileHandle, open, rename, unlink } from "node:fs/promises";
import { dirname, join } from "node:path";

/**
 * Writes a file so that `path` is, whatever happens, the file that was there before or the whole new one: under another
 * name in the same folder, and renamed once it is on the disk. What `write` or the file system throws comes through, and
 * the old file stays.
 */
export async function replaceFile<T>(path: string, write: (file: FileHandle) => Promise<T>): Promise<T> {
  // Opened first: behind the renaming nothing may fail but the disk.
  const folder = await open(dirname(path), "r");
  try {
    const result = await writeBeside(path, write);
    await syncFolder(folder);
    return result;
  } finally {
    await folder.close();
  }
}

async function writeBeside<T>(path: string, write: (file: FileHandle) => Promise<T>): Promise<T> {
  // A crash leaves such a file behind, which nothing ever reads.
  const temporary = join(dirname(path), `.longhaul-${randomBytes(8).toString("hex")}.tmp`);
  const file = await open(temporary, "wx");
  try {
    let result: T;
    try {
      result = await write(file);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
    return result;
  } catch (error) {
    await unlink(temporary).catch(() => {});
    throw error;
  }
}

/** A name is on the disk once its folder is. Some file systems know no such thing. */
async function syncFolder(folder: FileHandle): Promise<void> {
  try {
    await folder.sync();
  } catch (error) {
    if (!["EINVAL", "ENOTSUP"].includes((error as NodeJS.ErrnoException).code ?? "")) throw error;
  }
}
