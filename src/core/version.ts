/** The package's version, as in package.json (a test compares them): reading that file at run time would break bundled apps. */
export const VERSION = "0.1.0";
