export function statuses(port: number, path: string, key: string): Promise<readonly (readonly [status: number, what: string | null])[]>;
